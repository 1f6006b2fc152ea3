"""Point estimates with intervals: proportions, means, any statistic by bootstrap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
from scipy import stats as scipy_stats

from trimtab.errors import UsageError
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.stats.arrays import BATCH_NUMBERS, Floats, Values, floats, paired_floats

Statistic: TypeAlias = Callable[..., Floats]
"""Called as ``statistic(*samples, axis=-1)``: one array ``[..., n]`` per sample in, ``[...]`` out, as in NumPy."""

BCA_LIMIT: Final = 500
"""Largest sample for which BCa is used: its jackknife costs n², and its correction shrinks like 1/√n."""


def wilson(successes: int, n: int, level: float = 0.95) -> Measured:
    """A proportion with Wilson's score interval; ``n`` counts trials.

    Source: Wilson (1927); Brown, Cai and DasGupta (2001) for why not the normal interval.

    Raises:
        UsageError: If there are no trials or more successes than trials. ``rate`` takes an empty sample.
    """
    if not 0 <= successes <= n or n < 1:
        raise UsageError(
            f"{successes} successes in {n} trials",
            allowed="0 <= successes <= n and n >= 1",
            todo="use stats.rate(...) where a sample may be empty",
        )
    z = normal_quantile(level)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Measured(value=share, low=low, high=high, n=n, level=level)


def rate(passed: Values, *, level: float = 0.95) -> Figure:
    """Share of passes with Wilson's interval, ``Unmeasured`` for an empty sample; ``n`` counts trials."""
    flags = np.asarray(passed, dtype=np.bool_)
    if flags.size == 0:
        return Unmeasured(reason="no trials")
    return wilson(int(flags.sum()), int(flags.size), level)


def mean_interval(values: Values, *, level: float = 0.95, seed: int = 0, resamples: int = 2000) -> Figure:
    """Mean with a bootstrap interval over rows; ``n`` counts rows.

    For truth values ``rate`` is the better interval: resampling a constant sample gives an interval of width zero.
    """
    return bootstrap(_mean, values, level=level, seed=seed, resamples=resamples)


def paired_difference(a: Values, b: Values, *, level: float = 0.95, seed: int = 0, resamples: int = 2000) -> Figure:
    """Mean of ``a - b`` with a bootstrap interval over pairs; ``n`` counts pairs.

    Raises:
        UsageError: If the samples differ in length.
    """
    first, second = paired_floats(a, b)
    return bootstrap(_mean, first - second, level=level, seed=seed, resamples=resamples)


def bootstrap(
    statistic: Statistic,
    *samples: Values,
    paired: bool = False,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Figure:
    """A statistic with a bootstrap interval; ``n`` counts pairs if ``paired``, else all values.

    BCa (Efron 1987) for samples up to ``BCA_LIMIT``, the percentile interval above it and where BCa is undefined.
    Resamples on which the statistic is not finite are set aside; if they are more than half, there is no figure.

    Args:
        statistic: See ``Statistic``.
        samples: One sample or more.
        paired: Resample all samples with the same indices.
        level: Confidence level.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UsageError: If ``paired`` samples differ in length.
    """
    arrays = [floats(sample) for sample in samples]
    if paired and len({len(array) for array in arrays}) > 1:
        raise UsageError(
            f"paired samples of lengths {', '.join(str(len(array)) for array in arrays)}",
            allowed="one length",
            todo="pair the samples unit by unit first",
        )
    smallest, largest = min(map(len, arrays)), max(map(len, arrays))
    if smallest < 2:
        return Unmeasured(reason=f"{smallest} values; an interval needs at least 2")
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples are dealt with below
        value = float(statistic(*arrays, axis=-1))
        if not math.isfinite(value):
            return Unmeasured(reason="the statistic is not defined on this sample")
        result = scipy_stats.bootstrap(
            arrays,
            statistic,
            n_resamples=resamples,
            batch=max(1, BATCH_NUMBERS // largest),
            vectorized=True,
            paired=paired,
            axis=-1,
            confidence_level=level,
            method="BCa" if largest <= BCA_LIMIT else "percentile",
            rng=np.random.default_rng(seed),
        )
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
        if not (math.isfinite(low) and math.isfinite(high)):
            draws = np.asarray(result.bootstrap_distribution, dtype=np.float64)
            draws = draws[np.isfinite(draws)]
            if 2 * draws.size < resamples:
                return Unmeasured(reason="the statistic is not defined on most resamples")
            low, high = percentile_interval(draws, level)
    n = largest if paired else sum(map(len, arrays))
    return Measured(value=value, low=low, high=high, n=n, level=level)


def clustered_mean(
    values_by_seed: Sequence[Values], *, level: float = 0.95, seed: int = 0, resamples: int = 2000
) -> Figure:
    """Mean over seeds and questions with an interval over both; ``n`` counts answers (seeds x questions).

    Seeds and questions are resampled independently of each other (the pigeonhole bootstrap, Owen 2007), because every
    seed is asked the same questions; it errs on the wide side. With one seed only questions are resampled. If all
    values are the same truth value, resampling sees no doubt at all: then the interval is Wilson's with each question
    counted once. For a paired comparison pass the differences.

    Args:
        values_by_seed: One row per seed, the same questions in the same order in each.
        level: Confidence level.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UsageError: If the seeds do not have the same number of questions.
    """
    rows = [floats(row) for row in values_by_seed]
    if len({len(row) for row in rows}) > 1:
        raise UsageError(
            f"rows of {', '.join(str(len(row)) for row in rows)} values",
            allowed="one value per question for every seed",
            todo="ask every seed the same questions",
        )
    if not rows or len(rows[0]) < 2:
        return Unmeasured(reason=f"{len(rows[0]) if rows else 0} questions; an interval needs at least 2")
    table = np.stack(rows)
    if not np.isfinite(table).all():
        return Unmeasured(reason="a value is not finite")
    seeds, questions = table.shape
    value = float(table.mean())
    if value in (0.0, 1.0) and bool((table == value).all()):
        doubt = wilson(questions if value else 0, questions, level)
        return Measured(value=value, low=doubt.low, high=doubt.high, n=table.size, level=level)
    rng = np.random.default_rng(seed)
    draws: list[Floats] = []
    left = resamples
    while left > 0:
        size = min(left, max(1, BATCH_NUMBERS // questions))
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size) / seeds
        question_weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=size) / questions
        draws.append(np.einsum("rq,rq->r", seed_weights @ table, question_weights))
        left -= size
    inside = np.clip(np.concatenate(draws), table.min(), table.max())  # sums of weights are 1 up to rounding
    low, high = percentile_interval(inside, level)
    return Measured(value=value, low=low, high=high, n=table.size, level=level)


def clustered_ratio(
    parts_by_seed: Sequence[Values],
    wholes_by_seed: Sequence[Values],
    *,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Figure:
    """Sum of parts over sum of wholes, such as wrong claims per claim, with an interval over seeds and questions.

    Seeds and questions are resampled as in ``clustered_mean``; ``n`` is the sum of the wholes. If every part is 0 or
    equal to its whole, the interval is Wilson's with each question counted once.

    Args:
        parts_by_seed: What is counted in each answer: one row per seed, the same questions in the same order.
        wholes_by_seed: Out of how much.
        level: Confidence level.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        UsageError: If the tables differ in shape.
    """
    tops, bottoms = [floats(row) for row in parts_by_seed], [floats(row) for row in wholes_by_seed]
    if len({len(row) for row in (*tops, *bottoms)}) > 1 or len(tops) != len(bottoms):
        raise UsageError(
            f"parts {[len(row) for row in tops]}, wholes {[len(row) for row in bottoms]}",
            allowed="one part and one whole per question for every seed",
            todo="ask every seed the same questions",
        )
    if not tops or len(tops[0]) < 2:
        return Unmeasured(reason=f"{len(tops[0]) if tops else 0} questions; an interval needs at least 2")
    top, bottom = np.stack(tops), np.stack(bottoms)
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        return Unmeasured(reason="a value is not finite")
    count = int(bottom.sum())
    if count < 1:
        return Unmeasured(reason="there is nothing to take a share of")
    value = float(top.sum() / bottom.sum())
    seeds, questions = top.shape
    asked = int((bottom.sum(0) > 0).sum())
    if bool((top == 0).all()) or bool((top == bottom).all()):
        doubt = wilson(asked if value else 0, asked, level)
        return Measured(value=value, low=doubt.low, high=doubt.high, n=count, level=level)
    if asked < 2:
        return Unmeasured(reason="1 question has anything to take a share of; an interval needs at least 2")
    rng = np.random.default_rng(seed)
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    question_weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = np.einsum("rq,rq->r", seed_weights @ top, question_weights) / np.einsum(
            "rq,rq->r", seed_weights @ bottom, question_weights
        )
    low, high = percentile_interval(draws[np.isfinite(draws)], level)
    return Measured(value=value, low=low, high=high, n=count, level=level)


def normal_quantile(level: float) -> float:
    """How many standard deviations a two-sided normal interval reaches; 1.96 at level .95.

    Raises:
        UsageError: If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UsageError(f"confidence level {level}", allowed="a number between 0 and 1", todo="use 0.95")
    return float(scipy_stats.norm.ppf((1 + level) / 2))


def _mean(values: Floats, axis: int) -> Floats:
    return np.asarray(values.mean(axis=axis))


def percentile_interval(draws: Floats, level: float) -> tuple[float, float]:
    """The middle ``level`` of the draws."""
    tail = (1 - level) / 2
    return float(np.quantile(draws, tail)), float(np.quantile(draws, 1 - tail))
