"""Intervals, ranks, exact tests and hulls: the statistics behind every figure.

Two rules hold throughout. A figure that cannot be computed is ``Unmeasured`` with the reason, never a zero. Resampling
takes a seed and gives the same interval for the same seed.
"""

from __future__ import annotations

from trimtab.stats.hull import pareto_hull
from trimtab.stats.hypotheses import false_discovery, fisher_exact, mcnemar_exact, permutation_test
from trimtab.stats.intervals import bootstrap, clustered_mean, mean_interval, paired_difference, rate, wilson
from trimtab.stats.ranks import auroc, auroc_interval, spearman, spearman_interval

__all__ = [
    "auroc",
    "auroc_interval",
    "bootstrap",
    "clustered_mean",
    "false_discovery",
    "fisher_exact",
    "mcnemar_exact",
    "mean_interval",
    "paired_difference",
    "pareto_hull",
    "permutation_test",
    "rate",
    "spearman",
    "spearman_interval",
    "wilson",
]
