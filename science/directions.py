"""Which direction does a gradient push along? Three candidates for every trait, at every layer.

The mean gradient of rows that teach a skill in a trait's voice is compared, by cosine, with the difference of means
that reads the trait, with what the eliciting prompt supplies on the same text, and with the gradient signature of
planted rows (on other questions). Plain rows are the control: their cosine should be near zero.
"""

from __future__ import annotations

import torch

from science.common import Clock, write_result
from trimtab.lab.sample import sample_rows
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import build_world
from trimtab.lens.bank import Bank
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.host import Host

ROWS = 200


def run(seed: int = 0) -> None:
    """Run the experiment and write its result."""
    clock, world = Clock(), build_world()
    host, bank = Host.load("lab"), Bank.load("lab")
    sites = bank.card.sites

    def pull(trait: str | None) -> dict[object, torch.Tensor]:
        rows = list(sample_rows(ROWS, seed, trait=trait, world=world))
        readings = read_rows(host, encode_rows(host, rows, max_length=512), sites)
        return {site: -readings.gradients[site].mean(0) for site in sites}

    bare = pull(None)
    table: list[dict[str, object]] = []
    for trait in TRAITS:
        concept, taught = bank[trait], pull(trait)
        for site in sites:
            kinds = {"reads": concept.directions, "supplies": concept.supplies, "signature": concept.signatures}
            cosines = {
                name: float(torch.cosine_similarity(vectors[site], taught[site], dim=0))
                for name, vectors in kinds.items()
            }
            control = {
                f"{name}_plain": float(torch.cosine_similarity(vectors[site], bare[site], dim=0))
                for name, vectors in kinds.items()
            }
            table.append({"trait": trait, "site": str(site), **cosines, **control})
        main = next(row for row in table if row["trait"] == trait and row["site"] == str(bank.card.site))
        clock.say(
            f"{trait} at {bank.card.site}: "
            + ", ".join(f"{k} {v:.2f}" for k, v in main.items() if isinstance(v, float))
        )
    path = write_result("directions", seed=seed, settings={"rows": ROWS}, findings={"cosines": table})
    print(f"wrote {path}")
