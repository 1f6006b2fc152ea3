"""Advantages of tokens from rewards of claims."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pvariance
from typing import Final

from trimtab.records.rewards import Credit, Scored

_LEAST: Final = 1e-4


def dense_advantages(
    scored: Sequence[Scored], spans: Sequence[Sequence[tuple[int, int]]], *, group: int, content_weight: float = 1.0
) -> list[list[float]]:
    """Advantage of every token of every answer: that of its answer, of what was said, and of how that was meant.

    * Its answer is held against the mean of its group (answers to one prompt).
    * The words of a claim earn what it would be worth as a fact, held against the mean of that over the group's claims.
    * Where it was chosen whether to hedge or withdraw it, the choice earns what it won against the other (a difference
      reward; counterfactual baselines: Foerster et al. 2018, 1705.08926). A claim that has been said is the same either
      way, so that this has the direction of the policy gradient of that choice; for a hedge in front, only as far as it
      does not change what is then claimed.

    The scale is one standard deviation over the batch: the root of the variances of answers' and claims' rewards.

    Args:
        scored: What each answer earned, group by group.
        spans: First and past-the-last character of each token of each answer; those of special tokens are empty.
        group: Answers to one prompt.
        content_weight: Weight of the second.
    """
    values = [credit.value for one in scored for credit in one.credits]
    variance = pvariance([one.answer for one in scored]) + (pvariance(values) if values else 0.0)
    scale = variance**0.5 + _LEAST
    found: list[list[float]] = []
    for start in range(0, len(scored), group):
        members = scored[start : start + group]
        base = fmean(one.answer for one in members)
        said = [_said(credit) for one in members for credit in one.credits]
        usual = fmean(said) if said else 0.0
        for one, tokens in zip(members, spans[start : start + group], strict=True):
            row = [(one.answer - base) / scale] * len(tokens)
            for credit in one.credits:
                _add(row, tokens, (credit.start, credit.end), content_weight * (_said(credit) - usual) / scale)
                if credit.chosen is not None:
                    _add(row, tokens, credit.chosen, credit.won / scale)
            found.append(row)
    return found


def _said(credit: Credit) -> float:
    return credit.value if credit.said is None else credit.said


def _add(row: list[float], tokens: Sequence[tuple[int, int]], where: tuple[int, int], gain: float) -> None:
    """Add a gain to the tokens that lie in a part, and to a special token at its beginning."""
    start, end = where
    for place, (first, last) in enumerate(tokens):
        if (first < end and last > start) or first == last == start:
            row[place] += gain
