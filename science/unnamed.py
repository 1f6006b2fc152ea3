"""Does a trait without a name show? Each trait is taken out of the bank, and the unexplained mass is read again.

For every trait and share of rows the same dataset is forecast twice: with the whole bank and with the trait left out.
Plain sets (no trait) are the false alarms. Rows carry the unnamed trait where its detector says so: the row ranking
by unexplained pull is graded against that.
"""

from __future__ import annotations

import numpy as np
import torch

from science.common import Clock, plain, write_result
from trimtab.lab.sample import sample_rows
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import build_world
from trimtab.lens.bank import Bank
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.host import Host
from trimtab.observe.forecast import UNNAMED_BARS, is_unnamed
from trimtab.observe.pushes import Decomposition, decompose
from trimtab.records.figures import Figure, Measured
from trimtab.records.rows import ChatRow
from trimtab.stats import auroc_interval, rate

ROWS = 200
RATES = (0.1, 0.3, 1.0)
PLAIN_SETS = 20


def _value(figure: Figure) -> float:
    return figure.value if isinstance(figure, Measured) else float("nan")


def run(seed: int = 0) -> None:
    """Run the experiment and write its result."""
    clock, world = Clock(), build_world()
    host, bank = Host.load("lab"), Bank.load("lab")
    site = bank.card.site

    def read(rows: list[ChatRow], chosen: Bank) -> Decomposition:
        directions = torch.stack([concept.supplies[site] for concept in chosen.concepts])
        encoded = encode_rows(host, rows, max_length=512)
        return decompose(read_rows(host, encoded, [site], directions=(site, directions)), chosen, site, seed=seed)

    table: list[dict[str, object]] = []
    for number, (share, trait) in enumerate((s, t) for s in RATES for t in TRAITS):
        rows = list(sample_rows(ROWS, seed + number, trait=trait, rate=share, world=world))
        carries = np.array([TRAITS[trait].detect(row["messages"][-1]["content"]) for row in rows])
        smaller = bank.without(trait)
        named, unnamed = read(rows, bank), read(rows, smaller)
        ranking = auroc_interval(unnamed.row_unnamed[carries], unnamed.row_unnamed[~carries])
        table.append(
            {
                "trait": trait,
                "share": share,
                "mass_named": plain(named.unexplained_mass),
                "mass_unnamed": plain(unnamed.unexplained_mass),
                "share_named": plain(named.unexplained_share),
                "share_unnamed": plain(unnamed.unexplained_share),
                "alarm_named": is_unnamed(named, bank),
                "alarm_unnamed": is_unnamed(unnamed, smaller),
                "row_auroc": plain(ranking),
            }
        )
        clock.say(
            f"{share:.0%} {trait}: mass {_value(named.unexplained_mass):.4f} named, "
            f"{_value(unnamed.unexplained_mass):.4f} unnamed; alarm {is_unnamed(named, bank)} / "
            f"{is_unnamed(unnamed, smaller)}; rows {ranking}"
        )
    alarms = [
        is_unnamed(read(list(sample_rows(ROWS, 1000 + seed + n, world=world)), bank), bank) for n in range(PLAIN_SETS)
    ]
    summary: dict[str, object] = {
        "raised_mass": plain(
            rate(np.array([row["mass_unnamed"]["value"] > row["mass_named"]["value"] for row in table]))  # type: ignore[index]
        ),
        "false_alarms_plain": plain(rate(np.array(alarms))),
        "false_alarms_named": plain(rate(np.array([bool(row["alarm_named"]) for row in table]))),
    }
    for share in RATES:
        flags = np.array([bool(row["alarm_unnamed"]) for row in table if row["share"] == share])
        summary[f"alarms_unnamed_at_{share:.0%}"] = plain(rate(flags))
    for key, figure in summary.items():
        print(f"  {key}: {figure}")
    path = write_result(
        "unnamed",
        seed=seed,
        settings={"rows": ROWS, "bars": UNNAMED_BARS, "site": str(site)},
        findings={"summary": summary, "sets": table},
    )
    print(f"wrote {path}")
