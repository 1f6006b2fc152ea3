"""How best-of-n scales, from one pool of samples per prompt.

Taking the first n samples of a pool would throw the others away. Here each figure is the *exact* mean over all subsets
of n samples of a pool, which is unbiased for best-of-n with fresh samples if an answer's score depends on that answer
alone. ``best_of.scores`` also looks at the usual number of claims, which is taken over the whole pool here.
No subset is ever drawn: the chance of each sample to be the one that is kept is a count of subsets.

With the vote, sample ``i`` of course ``a`` is kept if ``c`` samples of its course are drawn, it is the best of them,
``C(b_i, c - 1)`` ways with ``b_i`` the samples of its course that rank below it, and no other course has more (or as
many, if it is preferred in ties). The number of ways to draw the other ``n - c`` is then a coefficient of the product
over courses of ``sum_k C(m, k) x^k``, cut where a course would win. Samples with equal scores share their chances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from trimtab.errors import UsageError
from trimtab.records.figures import Figure, Measured
from trimtab.stats import bootstrap, clustered_mean, mean_interval, wilson

Floats: TypeAlias = NDArray[np.float64]

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)

LARGEST: Final = 1000
"""Samples in a pool; above it the number of subsets does not fit into a float."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The samples of one prompt: what they could be chosen by, and what came of them.

    Attributes:
        scores: By chooser, one score per sample; higher is better, ``-inf`` is allowed.
        courses: What each sample does, as numbers; of two courses with equally many samples the lower number is taken.
        stated: Stated claims (asserted or hedged) of each.
        wrong: Claims of each that are asserted and wrong.
        right: Whether each is a right answer: with a right claim that is asserted and none that is wrong.

    Raises:
        UsageError: If there is no sample, there are more than ``LARGEST``, the lengths differ or a number is no number.
    """

    scores: Mapping[str, Sequence[float] | Floats]
    courses: Sequence[int]
    stated: Sequence[int]
    wrong: Sequence[int]
    right: Sequence[bool]

    def __post_init__(self) -> None:
        columns = [self.courses, self.stated, self.wrong, self.right, *self.scores.values()]
        sizes = sorted({len(column) for column in columns})
        if len(sizes) > 1 or not 1 <= sizes[0] <= LARGEST or any(np.isnan(c).any() for c in self.scores.values()):
            raise UsageError(
                f"a pool with columns of {', '.join(map(str, sizes))} samples, scores by {', '.join(self.scores)}",
                allowed=f"1 to {LARGEST} samples, one number of each kind per sample",
                todo="score and grade every sample of the pool",
            )


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Best-of-n by one chooser. Intervals resample prompts, and ``n`` of the figures counts prompts.

    Attributes:
        n: Samples per prompt.
        wrong_claims: Share of stated claims that are asserted and wrong.
        fewer_wrong: By how much that share is below the one of plain sampling from the same pools, as a part of it.
        claims: Stated claims per answer.
        answered: Share of questions with a right answer.
    """

    n: int
    wrong_claims: Figure
    fewer_wrong: Figure
    claims: Figure
    answered: Figure


def selection(scores: Sequence[float] | Floats, n: int, courses: Sequence[int] | None = None) -> Floats:
    """Chance of each sample to be kept by best-of-n from a random subset of n samples, ``[sample]``.

    Args:
        scores: One per sample; equal scores share their chances.
        n: Samples drawn, without replacement.
        courses: The vote that comes first; ``None``: the highest score of all is kept.

    Raises:
        UsageError: If ``n`` is not from 1 to the size of the pool, or the pool is larger than ``LARGEST``.
    """
    values = np.asarray(scores, dtype=np.float64)
    course = np.zeros(len(values), np.int64) if courses is None else np.asarray(courses, np.int64)
    if not 1 <= n <= len(values) <= LARGEST or len(course) != len(values):
        raise UsageError(
            f"best of {n} from a pool of {len(values)} samples with {len(course)} courses",
            allowed=f"n from 1 to the size of the pool, which is at most {LARGEST}; one course per sample",
            todo="draw larger pools, or ask for smaller n",
        )
    chances = np.zeros(len(values))
    names, sizes = np.unique(course, return_counts=True)
    for place, name in enumerate(names):
        others = [(int(size), other < place) for other, size in enumerate(sizes) if other != place]
        mine = np.flatnonzero(course == name)
        # ways[c - 1]: to draw the rest of the subset such that c samples of this course win the vote
        ways = np.array([_ways(others, c, n - c) for c in range(1, min(n, len(mine)) + 1)])
        below = np.arange(len(mine))
        ranked = comb(below[:, None], np.arange(len(ways))[None, :]) @ ways
        order = mine[np.argsort(values[mine], kind="stable")]
        for score in np.unique(values[mine]):
            tied = values[order] == score
            chances[order[tied]] = ranked[tied].mean()
    return np.asarray(chances / math.comb(len(values), n))


def _ways(others: Sequence[tuple[int, bool]], most: int, drawn: int) -> float:
    """Ways to draw so many from the other courses that none has more than ``most``, or as many if it is preferred."""
    product = np.ones(1)
    for size, preferred in others:
        top = min(size, most - preferred, drawn)
        product = np.convolve(product, comb(size, np.arange(top + 1)))[: drawn + 1]
    return float(product[drawn]) if drawn < len(product) else 0.0


def scaling_curve(
    pools: Sequence[Pool],
    *,
    by: str | None,
    sizes: Sequence[int] = SIZES,
    vote: bool = True,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[CurvePoint, ...]:
    """Expected outcome of best-of-n for each n.

    Args:
        pools: The samples of each prompt.
        by: Whose scores choose; ``None``: any sample of the course that wins the vote, or of all, which is plain
            sampling, without the vote.
        sizes: The n.
        vote: Whether the course that most samples took comes first.
        level: Confidence level of the intervals.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UsageError: If a pool has no scores of that name, or fewer samples than the largest n.
    """
    if by is not None and any(by not in pool.scores for pool in pools):
        raise UsageError(
            f"by={by!r}",
            allowed=", ".join(sorted(set.intersection(*(set(pool.scores) for pool in pools)))) or "None",
            todo="choose scores that every pool has",
        )
    outcomes = [np.array([pool.wrong, pool.stated, pool.right], dtype=np.float64) for pool in pools]
    plain = np.array([outcome.mean(1) for outcome in outcomes]).reshape(-1, 3)
    points: list[CurvePoint] = []
    for n in sizes:
        kept = np.array(
            [
                outcome
                @ selection(np.zeros(len(pool.right)) if by is None else pool.scores[by], n, _courses(pool, vote))
                for pool, outcome in zip(pools, outcomes, strict=True)
            ]
        ).reshape(-1, 3)
        wrong, stated, right = kept.T
        shares = _shares(wrong, stated, plain, level=level, seed=seed, resamples=resamples)
        points.append(
            CurvePoint(
                n=n,
                wrong_claims=shares[0],
                fewer_wrong=shares[1],
                claims=mean_interval(stated, level=level, seed=seed, resamples=resamples),
                answered=clustered_mean([right], level=level, seed=seed, resamples=resamples),
            )
        )
    return tuple(points)


def _courses(pool: Pool, vote: bool) -> Sequence[int] | None:
    return pool.courses if vote else None


def _shares(
    wrong: Floats, stated: Floats, plain: Floats, *, level: float, seed: int, resamples: int
) -> tuple[Figure, Figure]:
    """Share of wrong claims, and how much less that is than under plain sampling.

    If nothing (or everything) is wrong, resampling sees no doubt at all: then the interval of the share is Wilson's,
    with each prompt that has claims counted once, and that of the reduction follows from it.
    """
    samples = wrong, stated, plain[:, 0], plain[:, 1]
    share = bootstrap(_share, *samples[:2], paired=True, level=level, seed=seed, resamples=resamples)
    fewer = bootstrap(_reduction, *samples, paired=True, level=level, seed=seed, resamples=resamples)
    if not isinstance(share, Measured) or 0 < share.value < 1:
        return share, fewer
    prompts = int((stated > 0).sum())
    doubt = wilson(prompts if share.value else 0, prompts, level)
    share = replace(share, low=doubt.low, high=doubt.high)
    if isinstance(fewer, Measured):
        whole = float(_share(plain[:, 0], plain[:, 1], axis=0))
        fewer = replace(fewer, low=1 - doubt.high / whole, high=1 - doubt.low / whole)
    return share, fewer


def _share(wrong: Floats, stated: Floats, axis: int) -> Floats:
    return np.asarray(wrong.sum(axis) / stated.sum(axis))


def _reduction(wrong: Floats, stated: Floats, plain_wrong: Floats, plain_stated: Floats, axis: int) -> Floats:
    return np.asarray(1 - _share(wrong, stated, axis) / _share(plain_wrong, plain_stated, axis))
