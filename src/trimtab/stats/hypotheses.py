"""Exact and permutation tests, and the false discovery rate."""

from __future__ import annotations

import numpy as np
from scipy import stats as scipy_stats

from trimtab.errors import UsageError
from trimtab.stats.arrays import BATCH_NUMBERS, Floats, Values, floats, paired_floats


def mcnemar_exact(a: Values, b: Values) -> float | None:
    """Two-sided p-value of the exact McNemar test on paired truth values; ``None`` where no pair is discordant.

    Raises:
        UsageError: If the samples differ in length.
    """
    first, second = (sample.astype(np.bool_) for sample in paired_floats(a, b))
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return None
    return float(scipy_stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def fisher_exact(passed_a: int, n_a: int, passed_b: int, n_b: int) -> float:
    """Two-sided p-value of Fisher's exact test that two independent samples have one rate.

    Raises:
        UsageError: If a sample has more passes than trials.
    """
    if not (0 <= passed_a <= n_a and 0 <= passed_b <= n_b):
        raise UsageError(
            f"{passed_a} of {n_a} and {passed_b} of {n_b}",
            allowed="0 <= passes <= trials",
            todo="correct the counts",
        )
    table = np.array([[passed_a, n_a - passed_a], [passed_b, n_b - passed_b]])
    return float(scipy_stats.fisher_exact(table).pvalue)


def permutation_test(
    a: Values, b: Values, *, paired: bool = False, seed: int = 0, resamples: int = 9999
) -> float | None:
    """Two-sided p-value of a permutation test on the difference of means; ``None`` where a sample has no values.

    Args:
        a: First sample.
        b: Second sample.
        paired: Swap within pairs (sign flips) instead of shuffling both samples together.
        seed: Seed of the permutations.
        resamples: Number of permutations; all of them, exactly, where there are no more than that.

    Raises:
        UsageError: If ``paired`` samples differ in length.
    """
    first, second = paired_floats(a, b) if paired else (floats(a), floats(b))
    if first.size == 0 or second.size == 0 or (not paired and first.size + second.size < 3):
        return None
    result = scipy_stats.permutation_test(
        (first, second),
        _mean_difference,
        permutation_type="samples" if paired else "independent",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // (first.size + second.size)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def false_discovery(p_values: Values) -> Floats:
    """Benjamini-Hochberg q-values in the order of the p-values, shape ``[tests]``.

    Raises:
        UsageError: If a p-value is outside 0 to 1.
    """
    values = floats(p_values)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise UsageError(
            "a p-value outside 0 to 1", allowed="numbers from 0 to 1", todo="leave out tests that gave none"
        )
    return np.asarray(scipy_stats.false_discovery_control(values) if values.size else values, dtype=np.float64)


def _mean_difference(x: Floats, y: Floats, axis: int) -> Floats:
    return np.asarray(x.mean(axis=axis) - y.mean(axis=axis))
