"""Statistics of order: AUROC and Spearman's correlation."""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize
from scipy import stats as scipy_stats

from trimtab.errors import UsageError
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.stats.arrays import Floats, Values, floats, paired_floats
from trimtab.stats.intervals import bootstrap, normal_quantile


def auroc(positive: Values, negative: Values) -> float:
    """Chance that a positive scores above a negative, ties counting half (the Mann-Whitney statistic over ``m n``).

    Raises:
        UsageError: If a sample is empty or holds a value that is not a number.
    """
    above, below = floats(positive), floats(negative)
    if above.size == 0 or below.size == 0 or np.isnan(above).any() or np.isnan(below).any():
        raise UsageError(
            f"{above.size} positive and {below.size} negative scores",
            allowed="at least one number of each",
            todo="use stats.auroc_interval(...) where a sample may be empty",
        )
    ranks = scipy_stats.rankdata(np.concatenate([above, below]))
    pairs_won = float(ranks[: above.size].sum()) - above.size * (above.size + 1) / 2
    return pairs_won / (above.size * below.size)


def auroc_interval(positive: Values, negative: Values, *, level: float = 0.95) -> Figure:
    """AUROC with Newcombe's score interval; ``n`` counts positives and negatives together.

    The interval inverts the score test with the Hanley-McNeil variance at the *tested* AUROC, both sample sizes in its
    numerator replaced by their mean: method 5 of Newcombe (2006, Statistics in Medicine 25:559-573). Unlike DeLong's
    and the bootstrap's, it does not shrink to a point when the classes separate perfectly. Ties make it wider than
    need be.
    """
    above, below = floats(positive), floats(negative)
    if above.size == 0 or below.size == 0:
        return Unmeasured(reason=f"{above.size} positive and {below.size} negative scores")
    if np.isnan(above).any() or np.isnan(below).any():
        return Unmeasured(reason="a score is not a number")
    area = auroc(above, below)
    z = normal_quantile(level)
    pairs = above.size * below.size
    star = (above.size + below.size) / 2 - 1

    def excess(tested: float) -> float:
        spread = 1 + star * (1 - tested) / (2 - tested) + star * tested / (1 + tested)
        return abs(area - tested) - z * math.sqrt(tested * (1 - tested) * spread / pairs)

    edge = 1e-12
    low = 0.0 if area <= edge else float(optimize.brentq(excess, 0.0, min(area, 1 - edge)))
    high = 1.0 if area >= 1 - edge else float(optimize.brentq(excess, max(area, edge), 1.0))
    return Measured(value=area, low=low, high=high, n=int(above.size + below.size), level=level)


def spearman(x: Values, y: Values) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; ``None`` where a sample is constant or has under 2.

    Raises:
        UsageError: If the samples differ in length.
    """
    first, second = paired_floats(x, y)
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(_rank_correlation(first, second, axis=-1))


def spearman_interval(x: Values, y: Values, *, level: float = 0.95, seed: int = 0, resamples: int = 2000) -> Figure:
    """Spearman's rank correlation with a bootstrap interval over pairs; ``n`` counts pairs.

    Raises:
        UsageError: If the samples differ in length.
    """
    first, second = paired_floats(x, y)
    if first.size < 4:
        return Unmeasured(reason=f"{first.size} pairs; a rank correlation needs at least 4")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Unmeasured(reason="one of the two does not vary")
    return bootstrap(_rank_correlation, first, second, paired=True, level=level, seed=seed, resamples=resamples)


def _rank_correlation(x: Floats, y: Floats, axis: int) -> Floats:
    """Pearson's correlation of the ranks; not a number where a sample is constant."""
    a, b = _centred_ranks(x, axis), _centred_ranks(y, axis)
    norm = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    return np.asarray(np.clip((a * b).sum(axis=axis) / norm, -1.0, 1.0))


def _centred_ranks(sample: Floats, axis: int) -> Floats:
    ranks = np.asarray(scipy_stats.rankdata(sample, axis=axis), dtype=np.float64)
    return np.asarray(ranks - ranks.mean(axis=axis, keepdims=True))
