"""Grades rulings against the hand-written table ``cases.yaml``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from trimtab.decide.rule import decide
from trimtab.lens.embed import SentenceEmbedder
from trimtab.records.forecast import Forecast
from unit.decide.forecasts import concept, forecast

TABLE: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text(encoding="utf-8"))
KEYS = ("learn", "avoid", "ignore", "unsaid", "not-learn")
N_LAB = 11
"""The first concepts of the table are the lab's; the others stand for a real model's bank."""


class Cached:
    """The real embedder, with each text embedded once."""

    def __init__(self) -> None:
        self._embed = SentenceEmbedder()
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def bank_for(case: Mapping[str, Any]) -> Forecast:
    """All concepts of the bank that a case speaks of, each taught."""
    names = list(TABLE["concepts"])
    spoken = {name for key in KEYS for name in case.get(key, ())}
    lab = spoken <= set(names[:N_LAB])
    assert lab or spoken <= set(names[N_LAB:])
    chosen = names[:N_LAB] if lab else names[N_LAB:]
    return forecast(
        concept(name, TABLE["concepts"][name]["meaning"], kind=TABLE["concepts"][name]["kind"]) for name in chosen
    )


def graded(part: str, embed: Cached) -> tuple[Counter[str], list[str]]:
    """Counts of right rulings, of ones left to a human and of false ones, and the wrong ones in words."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for case in TABLE[part]:
        held = decide(bank_for(case), case["spec"], embed).current()
        for key in KEYS:
            right = {"unsaid": ("needs-human",), "not-learn": ("needs-human", "avoid")}.get(key, (key,))
            for name in case.get(key, ()):
                verdict = held[name].verdict
                grade = "right" if verdict in right else "human" if verdict == "needs-human" else "false"
                counts[grade] += 1
                if grade != "right":
                    wrong.append(f"{grade}: {case['spec']!r} {name}: {verdict}, not {key} ({held[name].reason})")
    return counts, wrong
