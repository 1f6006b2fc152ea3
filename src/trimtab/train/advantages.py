"""Advantages of tokens from rewards of claims."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean, pvariance
from typing import Final

from trimtab.records.rewards import Credit, Scored

_LEAST: Final = 1e-4


def dense_advantages(
    scored: Sequence[Scored],
    spans: Sequence[Sequence[tuple[int, int]]],
    *,
    group: int,
    content_weight: float = 1.0,
    put: Sequence[Collection[int]] | None = None,
) -> list[list[float]]:
    """Advantage of every token of every answer: that of its answer, of what was said, and of how that was meant.

    * Its answer is held against the mean of its group (answers to one prompt).
    * The words of a claim earn what it would be worth as a fact, held against the mean of that over the group's claims.
    * The words that hedge or withdraw it earn what that won against leaving it plain (a difference reward;
      counterfactual baselines: Foerster et al. 2018, 1705.08926). A claim that has been said is the same either way, so
      that this is the policy gradient of that choice; for a hedge in front, only as far as it does not change what is
      then claimed. What follows on a plain claim earns nothing for it, which is the same in expectation: it may be
      the hedge of the next claim. Only where a hedge was taken away and this was put there, it earns what that won.

    The scale is one standard deviation over the batch: the root of the variances of answers' and claims' rewards.

    Args:
        scored: What each answer earned, group by group.
        spans: First and past-the-last character of each token of each answer; those of special tokens are empty.
        group: Answers to one prompt.
        content_weight: Weight of the second.
        put: Places of the tokens of each answer that were put there to explore.
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
        for place, (one, tokens) in enumerate(zip(members, spans[start : start + group], strict=True), start):
            row = [(one.answer - base) / scale] * len(tokens)
            for credit in one.credits:
                for token in _within(tokens, (credit.start, credit.end)):
                    row[token] += content_weight * (_said(credit) - usual) / scale
                if credit.chosen is not None:
                    chosen = _within(tokens, credit.chosen)
                    plain = credit.said is None
                    for token in chosen if not plain else [at for at in chosen if put and at in put[place]]:
                        row[token] += credit.won / scale
            found.append(row)
    return found


def _said(credit: Credit) -> float:
    return credit.value if credit.said is None else credit.said


def chosen_tokens(one: Scored, tokens: Sequence[tuple[int, int]], put: Collection[int] = ()) -> list[int]:
    """Places of the tokens of an answer that begin the hedge of the claim before, or were put where one was."""
    found: list[int] = []
    for credit in one.credits:
        if credit.chosen is not None and credit.chosen[0] >= credit.end:
            first = _within(tokens, credit.chosen)[:1]
            found += first if credit.said is not None else [place for place in first if place in put]
    return found


def _within(tokens: Sequence[tuple[int, int]], where: tuple[int, int]) -> list[int]:
    """Places of the tokens that lie in a part, and of a special token at its beginning."""
    start, end = where
    return [
        place for place, (first, last) in enumerate(tokens) if (first < end and last > start) or first == last == start
    ]
