"""Generation that a lens watches against plain generation of the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.capture import cpu_seconds
from bench.measure import Ratio, of_turns
from bench.passes import random_llama
from trimtab.data.template import encode_prompt
from trimtab.guard.monitor import watching
from trimtab.lab.corpus import GOSSIP_ASKS
from trimtab.lab.world import build_world
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.base import LanguageModel
from trimtab.model.generate import continue_ids
from trimtab.model.host import Host
from trimtab.records.lens import LensCard
from trimtab.records.site import Site

DEPTH, WIDTH, ROWS, TOKENS, TURNS, REPEATS = 8, 256, 8, 48, 15, 1


def monitored_generation() -> list[Ratio]:
    """A logistic lens half-way, on the lab's answers and on those of an 8-layer Llama of width 256."""
    host = Host.load("lab")
    people = build_world().people[:ROWS]
    asked = [
        encode_prompt(host.tokenizer, [{"role": "user", "content": GOSSIP_ASKS[0].format(name=person.name)}])
        for person in people
    ]
    model = random_llama(DEPTH, WIDTH, 4096, "cpu", torch.float32)
    random = LanguageModel(model=model, tokenizer=host.tokenizer, name="llama 8x256", content_hash="")
    return [
        _watched(f"{lm.name}, {rows} at a time", lm, asked[:rows])
        for lm in (LanguageModel(model=host.model, tokenizer=host.tokenizer, name="lab", content_hash=""), random)
        for rows in (1, ROWS)
    ]


def _watched(title: str, lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Ratio:
    """Per token, as both sides make the same tokens; processor time, in turns of several answers each."""
    site = Site(lm.n_layers // 2 - 1)
    card = LensCard(
        concept="noise", meaning="", kind="logistic", site=site, pooling="max", model=lm.name, model_hash=""
    )
    lens = LogisticLens(card=card, weight=torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0)), bias=0.0)
    repeats = REPEATS * ROWS // len(prompts)

    def plain() -> list[list[list[int]]]:
        return [continue_ids(lm, prompts, max_new_tokens=TOKENS, temperature=1.0, seed=seed) for seed in range(repeats)]

    def ours() -> list[list[list[int]]]:
        with watching(lm, lens) as scores:
            new = plain()
            assert len(scores.sequences) == sum(len(each) for each in new)
        return new

    if ours() != plain():
        raise AssertionError("watching changes what is generated")
    found: list[float] = []
    for turn in range(TURNS):
        first, second = (ours, plain) if turn % 2 else (plain, ours)
        times = {first: cpu_seconds(first), second: cpu_seconds(second)}
        found.append(times[ours] / times[plain])
    return of_turns(f"watched generation, {title}", found, target=1.02, unit="of plain generation of the same tokens")
