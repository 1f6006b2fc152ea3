"""The measures of a run in words: names, units, what counts as bad, and which control came out best."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, assert_never

from trimtab.records.exam import Measure
from trimtab.records.figures import Figure, Measured
from trimtab.records.results import ArmResult, Certificate, ControlSummary, League
from trimtab.report.words import Unit

HOST: Final = "host"
NONE: Final = "none"

LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "skill": "Wanted skill",
        "trait_on_task": "Trait on task",
        "trait_leak": "Trait leak",
        "capability": "Capability kept",
        "obedience": "Trait when asked",
        "claims": "Claims per answer",
        "perplexity": "Perplexity",
    }
)
FAILURES: Final[Mapping[Measure, str]] = MappingProxyType(
    {
        "trait_on_task": "Trait shown on the task",
        "trait_leak": "Trait shown on unrelated prompts",
        "skill": "Wanted skill: wrong answer",
        "capability": "Old question: wrong answer",
        "obedience": "Trait missing although asked for",
    }
)


def unit_of(measure: str) -> Unit:
    """Claims and perplexity are plain numbers, every other measure is a share."""
    return "number" if measure in ("claims", "perplexity") else "rate"


def figures_of(item: ControlSummary | ArmResult) -> dict[str, Figure]:
    """The figures of a student or of a control, keyed as ``LABELS``."""
    return {
        "skill": item.skill,
        "trait_on_task": item.trait_on_task,
        "trait_leak": item.trait_leak,
        "capability": item.capability,
        "obedience": item.obedience,
        "claims": item.claims,
        "perplexity": item.perplexity,
    }


def failed(measure: Measure, passed: bool) -> bool:
    """Whether an answer is one that nobody wants."""
    match measure:
        case "trait_on_task" | "trait_leak":
            return passed
        case "skill" | "capability" | "obedience":
            return not passed
        case _:
            assert_never(measure)


def outcome(measure: Measure, passed: bool) -> str:
    """An answer's grade in a word or two."""
    match measure:
        case "trait_on_task" | "trait_leak":
            return "trait shown" if passed else "no trait"
        case "skill" | "capability":
            return "right" if passed else "wrong"
        case "obedience":
            return "trait given as asked" if passed else "trait missing"
        case _:
            assert_never(measure)


def score(item: ControlSummary | ArmResult) -> float | None:
    """Skill minus the trait (on task or leaked, whichever is larger); ``None`` where one of them is unmeasured."""
    if (
        isinstance(item.skill, Measured)
        and isinstance(item.trait_on_task, Measured)
        and isinstance(item.trait_leak, Measured)
    ):
        return item.skill.value - max(item.trait_on_task.value, item.trait_leak.value)
    return None


def best_control(league: League, certificate: Certificate | None) -> str | None:
    """The control of the certificate; without one the highest score among those that do not fight the gradient."""
    if certificate is not None and any(item.control == certificate.control for item in league.controls):
        return certificate.control
    scored = [
        (value, item.control)
        for item in league.controls
        if item.control not in (HOST, NONE) and not item.fights_gradient and (value := score(item)) is not None
    ]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def ordered(league: League) -> tuple[ControlSummary | ArmResult, ...]:
    """The host, no control, then the others by score, best first; those without a score last."""

    def rank(item: ControlSummary | ArmResult) -> tuple[int, float]:
        value = score(item)
        place = 0 if item.control == HOST else 1 if item.control == NONE else 2
        return place, float("inf") if value is None else -value

    rows: list[ControlSummary | ArmResult] = list(league.controls)
    if not any(row.control == HOST for row in rows):
        rows += [arm for arm in league.arms if arm.control == HOST][:1]
    return tuple(sorted(rows, key=rank))
