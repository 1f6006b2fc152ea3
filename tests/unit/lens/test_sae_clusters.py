"""Feature clusters: mutual information against scikit-learn, planted groups, and nothing where nothing is planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import mutual_info_score

from trimtab.errors import DataError, UsageError
from trimtab.lens.sae.clusters import ClusterSettings, cluster_features, cluster_scores, mutual_information

GROUPS = 6
SIZE = 6


def planted(rng: np.random.Generator, *, rows: int = 1500, loners: int = 60, tied: bool = True) -> np.ndarray:
    """Six groups of six features that fire with their group's row label, and features of their own."""
    labels = rng.random((rows, GROUPS)) < 0.15
    together = np.repeat(labels, SIZE, axis=1)
    grouped = np.where(together, rng.random(together.shape) < 0.7, rng.random(together.shape) < 0.03)
    if not tied:
        grouped = np.stack([rng.permutation(column) for column in grouped.T], axis=1)
    return np.concatenate([grouped, rng.random((rows, loners)) < 0.15], axis=1)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(2, 40), st.integers(2, 6))))
@settings(max_examples=50, deadline=None)
def test_mutual_information_is_scikit_learns(firing: np.ndarray) -> None:
    found = mutual_information(firing)
    for i in range(firing.shape[1]):
        for j in range(firing.shape[1]):
            a, b = firing[:, i].astype(int), firing[:, j].astype(int)
            scale = (mutual_info_score(a, a) * mutual_info_score(b, b)) ** 0.5
            expected = 0.0 if i == j or scale == 0 else mutual_info_score(a, b) / scale
            assert abs(found[i, j]) == pytest.approx(expected, abs=1e-6)
            if abs(found[i, j]) > 1e-6:
                assert (found[i, j] > 0) == (np.corrcoef(a, b)[0, 1] > 0)


def test_planted_groups_are_found_and_only_those() -> None:
    firing = planted(np.random.default_rng(0))
    clusters = cluster_features(firing, ClusterSettings(edges=0.03))
    wanted = [set(range(SIZE * group, SIZE * (group + 1))) for group in range(GROUPS)]
    assert sorted(map(sorted, (cluster.features for cluster in clusters))) == sorted(map(sorted, wanted))
    assert clusters == cluster_features(firing, ClusterSettings(edges=0.03))


def test_without_the_tie_the_groups_are_not_found() -> None:
    """The same features, fired equally often but each on rows of its own."""
    firing = planted(np.random.default_rng(0), tied=False)
    assert cluster_features(firing, ClusterSettings(edges=0.03)) == ()


def test_features_that_exclude_each_other_are_not_company() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 1000)
    firing = np.stack([which == n // 4 for n in range(8)], axis=1) & (rng.random((1000, 8)) < 0.95)
    clusters = cluster_features(firing, ClusterSettings(edges=0.5))
    assert sorted(sorted(cluster.features) for cluster in clusters) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_scores_are_shares_of_the_cluster() -> None:
    firing = planted(np.random.default_rng(1))
    cluster = cluster_features(firing, ClusterSettings(edges=0.03))[0]
    strengths = np.zeros((3, firing.shape[1]))
    strengths[1, list(cluster.features)] = 2.5
    strengths[2, cluster.features[0]] = 0.1
    nothing, everything, one = cluster_scores(strengths, cluster)
    assert (nothing, everything) == (0.0, pytest.approx(1.0))
    assert one == pytest.approx(cluster.centrality[0] / sum(cluster.centrality))


def test_common_and_rare_features_are_left_out() -> None:
    firing = planted(np.random.default_rng(2))
    firing[:, 0] = True
    firing[:, 1] = False
    found = {
        feature for cluster in cluster_features(firing, ClusterSettings(edges=0.05)) for feature in cluster.features
    }
    assert {2, 3, 4, 5} <= found
    assert not {0, 1} & found


def test_too_few_features() -> None:
    with pytest.raises(DataError, match="0 of 3 features fire"):
        cluster_features(np.zeros((20, 3), dtype=np.bool_))


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^edges 0, density -1\n"):
        ClusterSettings(edges=0.0, density=-1.0)
    with pytest.raises(UsageError, match=r"^smallest 1\n"):
        ClusterSettings(smallest=1)
