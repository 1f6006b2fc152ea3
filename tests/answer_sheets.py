"""Answers written by hand, and the league made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

from trimtab.records.exam import Measure
from trimtab.records.figures import Unmeasured
from trimtab.records.results import Answer, ArmResult, League
from trimtab.verify.score import arm_result, league

Sheet: TypeAlias = Mapping[str, str]
"""Answers by measure: ``1`` for a pass, ``0`` for none."""

FIGHTS = frozenset({"gradient-projection"})


def answer(measure: Measure, number: int, passed: bool, text: str = "It is so here.", group: str = "sums") -> Answer:
    return Answer(
        exam=measure, measure=measure, id=f"{number:03d}", group=group, prompt="Is it?", text=text, passed=passed
    )


def answers(sheet: Sheet) -> tuple[Answer, ...]:
    return tuple(
        answer(cast("Measure", measure), i, mark == "1")
        for measure, marks in sheet.items()
        for i, mark in enumerate(marks)
    )


def arm(control: str, seed: int, given: Sequence[Answer]) -> ArmResult:
    return arm_result(
        given,
        control=control,
        fights_gradient=control in FIGHTS,
        seed=seed,
        steps=3,
        train_seconds=1.0,
        perplexity=Unmeasured(reason="not asked for"),
    )


def play(sheets: Mapping[tuple[str, int], Sheet]) -> tuple[League, dict[tuple[str, int], tuple[Answer, ...]]]:
    """The league of some sheets by (control, seed), and their answers."""
    given = {place: answers(sheet) for place, sheet in sheets.items()}
    return league([arm(control, seed, found) for (control, seed), found in given.items()], given), given
