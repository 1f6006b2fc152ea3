"""Intervals, ranks, exact tests and hulls: the statistics behind every figure.

Two rules hold throughout. A figure that cannot be computed is ``Unmeasured`` with the reason, never a zero. Resampling
takes a seed and gives the same interval for the same seed.
"""

from __future__ import annotations

from trimtab.stats.balanced import balanced_accuracy
from trimtab.stats.classify import (
    auroc_difference,
    calibration_error,
    discrimination,
    permutation_auroc,
    reliability,
)
from trimtab.stats.hull import pareto_hull
from trimtab.stats.hypotheses import false_discovery, fisher_exact, mcnemar_exact, permutation_test
from trimtab.stats.intervals import (
    bootstrap,
    clustered_mean,
    clustered_ratio,
    mean_interval,
    paired_difference,
    rate,
    wilson,
)
from trimtab.stats.ranks import auroc, auroc_interval, spearman, spearman_interval

__all__ = [
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "balanced_accuracy",
    "bootstrap",
    "calibration_error",
    "clustered_mean",
    "clustered_ratio",
    "discrimination",
    "false_discovery",
    "fisher_exact",
    "mcnemar_exact",
    "mean_interval",
    "paired_difference",
    "pareto_hull",
    "permutation_auroc",
    "permutation_test",
    "rate",
    "reliability",
    "spearman",
    "spearman_interval",
    "wilson",
]
