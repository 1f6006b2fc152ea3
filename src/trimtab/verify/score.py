"""From graded answers to figures, arm by arm and control by control."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.results import Answer, ArmResult, Comparison, ControlSummary, League
from trimtab.stats import clustered_mean, mcnemar_exact, mean_interval, pareto_hull, rate

MEASURES = ("skill", "trait_on_task", "trait_leak", "capability", "obedience")
Compared: TypeAlias = Literal["skill", "trait_on_task", "trait_leak", "capability", "obedience", "claims"]
COMPARED: tuple[Compared, ...] = ("skill", "trait_on_task", "trait_leak", "capability", "obedience", "claims")
BASELINE = "none"

_CLAUSE = re.compile(r"[.!?;]+(?!\w)|\n+")
_WORD = re.compile(r"\w+")


def count_claims(text: str) -> int:
    """Number of claims by rule: stretches of at least three words between sentence ends.

    Interjections ("yo ho!", "what a fine question!" counts, it has four words) are the rule's known weakness: read
    the figure as a change between students, not as an absolute number.
    """
    return sum(len(_WORD.findall(part)) >= 3 for part in _CLAUSE.split(text))


def arm_result(
    answers: Sequence[Answer],
    *,
    control: str,
    fights_gradient: bool,
    seed: int,
    steps: int,
    train_seconds: float,
    perplexity: Figure,
) -> ArmResult:
    """The figures of one student. Rates have Wilson intervals over questions."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        groups[f"{answer.measure}/{answer.group}"].append(answer.passed)
    rates = {name: rate([a.passed for a in answers if a.measure == name]) for name in MEASURES}
    return ArmResult(
        control=control,
        fights_gradient=fights_gradient,
        seed=seed,
        steps=steps,
        train_seconds=train_seconds,
        skill=_or_reason(rates["skill"], "skill"),
        trait_on_task=_or_reason(rates["trait_on_task"], "trait_on_task"),
        trait_leak=_or_reason(rates["trait_leak"], "trait_leak"),
        capability=_or_reason(rates["capability"], "capability"),
        obedience=_or_reason(rates["obedience"], "obedience"),
        claims=mean_interval(_claims(answers)),
        perplexity=perplexity,
        groups={name: rate(passed) for name, passed in sorted(groups.items())},
    )


def _or_reason(figure: Figure, measure: str) -> Figure:
    match figure:
        case Measured():
            return figure
        case Unmeasured():
            return Unmeasured(reason=f"no exam measures {measure} here")


def _claims(answers: Sequence[Answer]) -> list[int]:
    return [count_claims(answer.text) for answer in answers if answer.measure in ("skill", "capability")]


def _values(answers: Sequence[Answer], measure: Compared) -> dict[str, float]:
    if measure == "claims":
        return {
            f"{a.exam}/{a.id}": float(count_claims(a.text)) for a in answers if a.measure in ("skill", "capability")
        }
    return {f"{a.exam}/{a.id}": float(a.passed) for a in answers if a.measure == measure}


ArmAnswers: TypeAlias = Mapping[tuple[str, int], Sequence[Answer]]
"""Answers by (control, seed)."""


def league(arms: Sequence[ArmResult], answers: ArmAnswers) -> League:
    """Summaries over seeds, the Pareto hull, and paired comparisons with no control.

    Args:
        arms: One result per control and seed.
        answers: The answers behind them.
    """
    names = list(dict.fromkeys(arm.control for arm in arms))
    summaries = [_summary(name, [arm for arm in arms if arm.control == name], answers) for name in names]
    points = {
        s.control: (s.trait_on_task.value, s.skill.value)
        for s in summaries
        if s.control != "host" and isinstance(s.trait_on_task, Measured) and isinstance(s.skill, Measured)
    }
    on_hull = {list(points)[i] for i in pareto_hull(list(points.values()))}
    return League(
        arms=tuple(arms),
        controls=tuple(replace(s, on_pareto_hull=s.control in on_hull) for s in summaries),
        comparisons=tuple(
            comparison
            for name in names
            if name not in (BASELINE, "host") and BASELINE in names
            for measure in COMPARED
            if (comparison := compare(name, BASELINE, measure, answers)) is not None
        ),
    )


def _summary(name: str, arms: Sequence[ArmResult], answers: ArmAnswers) -> ControlSummary:
    def figure(measure: Compared) -> Figure:
        by_seed = [list(_values(answers[name, arm.seed], measure).values()) for arm in arms]
        return clustered_mean(by_seed) if all(by_seed) else Unmeasured(reason=f"no exam measures {measure} here")

    return ControlSummary(
        control=name,
        fights_gradient=any(arm.fights_gradient for arm in arms),
        seeds=len(arms),
        skill=figure("skill"),
        trait_on_task=figure("trait_on_task"),
        trait_leak=figure("trait_leak"),
        capability=figure("capability"),
        obedience=figure("obedience"),
        claims=figure("claims"),
        perplexity=_over_seeds([arm.perplexity for arm in arms]),
        on_pareto_hull=False,
    )


def _over_seeds(figures: Sequence[Figure]) -> Figure:
    values = [figure for figure in figures if isinstance(figure, Measured)]
    if not values:
        return figures[0]
    if len(values) == 1:
        return values[0]
    return Measured(
        value=float(np.mean([f.value for f in values])),
        low=min(f.low for f in values),
        high=max(f.high for f in values),
        n=sum(f.n for f in values),
    )


def compare(control: str, baseline: str, measure: Compared, answers: ArmAnswers) -> Comparison | None:
    """Compare two controls on the same questions and seeds; ``None`` where they share none.

    The interval of the difference resamples questions and seeds; where no pair differs, resampling sees no doubt at
    all, and the interval is what Wilson's leaves open for a first difference, to either side. The p-value is McNemar's
    exact test over all pairs (none for the claim count, which is not a yes-or-no figure).
    """
    seeds = sorted({s for c, s in answers if c == control} & {s for c, s in answers if c == baseline})
    pairs: list[tuple[list[float], list[float]]] = []
    for seed in seeds:
        ours, theirs = _values(answers[control, seed], measure), _values(answers[baseline, seed], measure)
        shared = [key for key in ours if key in theirs]
        pairs.append(([ours[key] for key in shared], [theirs[key] for key in shared]))
    if not pairs or not all(ours for ours, _ in pairs):
        return None
    difference = clustered_mean([np.subtract(ours, theirs) for ours, theirs in pairs])
    if isinstance(difference, Measured) and all(ours == theirs for ours, theirs in pairs):
        difference = replace(difference, low=-difference.high)
    flat = [np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)]
    return Comparison(
        control=control,
        baseline=baseline,
        measure=measure,
        difference=difference,
        p_value=None if measure == "claims" else mcnemar_exact(flat[0] > 0.5, flat[1] > 0.5),
    )
