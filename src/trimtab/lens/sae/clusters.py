"""Feature clusters: features that fire on the same rows, found by mutual information and Leiden communities.

One feature of a sparse autoencoder is rarely a whole concept: wide dictionaries split it. Following 2606.12360,
features are joined where the normalised mutual information of their binary firing is among the highest 1% of all
pairs (and, what the paper leaves out, beyond chance by a G-test over all pairs), communities of that graph are found
by Leiden (Traag et al. 2019, 1810.08473), and those with at least four members are clusters. No label and no concept
is used on the way.

Leiden maximises the constant Potts model here (Traag et al. 2011, 1104.3083), not modularity: the latter merges groups
that are small beside the whole graph, and with its usual resolution of 1 it merged the lab's voices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import graspologic_native
import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from trimtab.errors import DataError, UsageError

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_native_leiden: Callable[..., tuple[float, dict[str, int]]] = attrgetter("leiden")(graspologic_native)
"""The package has no type stubs."""

MOST_PAIRS: Final = 200_000_000
"""Pairs of features whose mutual information is held at once (float64: 1.6 GB)."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How features are clustered.

    Attributes:
        edges: Share of all pairs of features that become edges, the highest by mutual information.
        chance: Probability that any pair of independent features becomes an edge (G-test, Bonferroni over pairs).
        smallest: Fewest features of a cluster.
        density: Weight inside a cluster per pair of its features, in units of the mean edge, below which it is better
            split (the resolution of the constant Potts model); higher gives more and tighter clusters.
        rarest: Features that fire on fewer rows than this are left out: their mutual information is noise.
        commonest: Features that fire on more than this share of rows are left out: they say nothing about a row.
        seed: Seed of Leiden.
    """

    edges: float = 0.01
    chance: float = 0.01
    smallest: int = 4
    density: float = 0.05
    rarest: int = 10
    commonest: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"edges": self.edges, "chance": self.chance, "commonest": self.commonest}
        wrong = [f"{name} {share:g}" for name, share in shares.items() if not 0 < share <= 1]
        wrong += [f"smallest {self.smallest}"] if self.smallest < 2 else []
        wrong += [f"density {self.density:g}"] if not self.density > 0 else []
        if wrong:
            raise UsageError(
                ", ".join(wrong),
                allowed="edges, chance and commonest above 0 and up to 1, smallest >= 2, density > 0",
                todo="correct the settings; the paper's edges and smallest are the defaults",
            )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Features that fire together.

    Attributes:
        features: Their numbers, by falling centrality.
        centrality: Sum of each feature's edge weights inside the cluster, same order.
        rows: Share of rows on which at least one of them fires.
    """

    features: tuple[int, ...]
    centrality: tuple[float, ...]
    rows: float


def mutual_information(firing: Bools) -> Floats:
    """Normalised mutual information of every pair of features, signed by whether they fire together or apart.

    ``I(X; Y) / sqrt(H(X) H(Y))``, 0 where a feature never or always fires, negative where the two fire together more
    rarely than by chance.

    Args:
        firing: Whether a feature fires on a row, ``[row, feature]``.

    Returns:
        Symmetric array ``[feature, feature]`` with a zero diagonal.
    """
    entropy = _entropy(firing.mean(axis=0, dtype=np.float64))
    scale = np.sqrt(entropy[:, None] * entropy[None, :])
    information = _information(firing)
    return np.asarray(np.divide(information, scale, out=np.zeros_like(information), where=scale > 0), dtype=np.float64)


def _information(firing: Bools) -> Floats:
    """``I(X; Y)`` in nats, signed, with a zero diagonal."""
    on = firing.astype(np.float32)
    both = (on.T @ on).astype(np.float64) / firing.shape[0]
    share = firing.mean(axis=0, dtype=np.float64)
    information = np.zeros_like(both)
    for first, p in ((True, share), (False, 1 - share)):
        for second, q in ((True, share), (False, 1 - share)):
            joint = both if first else share[None, :] - both
            if not second:
                joint = p[:, None] - joint
            chance = p[:, None] * q[None, :]
            kept = (joint > 1e-12) & (chance > 0)
            information[kept] += joint[kept] * np.log(joint[kept] / chance[kept])
    information *= np.sign(both - share[:, None] * share[None, :])
    np.fill_diagonal(information, 0.0)
    return np.asarray(information, dtype=np.float64)


def _entropy(share: Floats) -> Floats:
    inside = np.clip(share, 1e-300, 1 - 1e-16)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))
    return np.asarray(np.where((share > 0) & (share < 1), entropy, 0.0), dtype=np.float64)


def cluster_features(firing: Bools, settings: ClusterSettings | None = None) -> tuple[Cluster, ...]:
    """Clusters of features, largest first.

    Args:
        firing: Whether a feature fires on a row, ``[row, feature]``.
        settings: How.

    Returns:
        Disjoint clusters; features without strong company are in none.

    Raises:
        DataError: If fewer than two features fire on enough rows to be clustered.
        UsageError: If there are too many of them to compare pair by pair.
    """
    settings = settings or ClusterSettings()
    counts = firing.sum(axis=0)
    kept = np.flatnonzero((counts >= settings.rarest) & (counts <= settings.commonest * firing.shape[0]))
    if kept.size < 2:
        raise DataError(
            f"{kept.size} of {firing.shape[1]} features fire on {settings.rarest} rows or more, and not on nearly all",
            allowed="at least two",
            todo="read more rows, or set rarest lower",
        )
    if kept.size**2 > MOST_PAIRS:
        raise UsageError(
            f"{kept.size} features to compare pair by pair",
            allowed=f"at most {int(MOST_PAIRS**0.5)}",
            todo="raise rarest, or lower commonest, so that fewer features are compared",
        )
    weights = mutual_information(firing[:, kept])
    edges = _strongest(weights, _beyond_chance(firing[:, kept], settings.chance), settings.edges)
    if not edges:
        return ()
    found = _leiden(edges, settings)
    clusters: list[Cluster] = []
    for members in found:
        if len(members) < settings.smallest:
            continue
        inside = np.maximum(weights[np.ix_(members, members)], 0.0).sum(axis=1)
        order = np.argsort(-inside, kind="stable")
        features = kept[np.asarray(members)[order]]
        clusters.append(
            Cluster(
                features=tuple(int(feature) for feature in features),
                centrality=tuple(float(value) for value in inside[order]),
                rows=float(firing[:, features].any(axis=1).mean()),
            )
        )
    return tuple(sorted(clusters, key=lambda cluster: (-len(cluster.features), cluster.features)))


def _beyond_chance(firing: Bools, chance: float) -> Bools:
    """Pairs that fire together too often for independence: ``2 n I`` is chi-squared there (G-test)."""
    rows, features = firing.shape
    bar = chi2.isf(chance / max(1, features * (features - 1) // 2), df=1)
    return np.asarray(2 * rows * _information(firing) > bar)


def _strongest(weights: Floats, eligible: Bools, share: float) -> list[tuple[str, str, float]]:
    """The highest share of pairs, as Leiden takes them, leaving out what is not eligible."""
    first, second = np.triu_indices(weights.shape[0], k=1)
    values = np.where(eligible[first, second], weights[first, second], 0.0)
    most = max(1, round(share * values.size))
    order = np.argsort(-values, kind="stable")[:most]
    return [(str(first[i]), str(second[i]), float(values[i])) for i in order if values[i] > 0]


def _leiden(edges: Sequence[tuple[str, str, float]], settings: ClusterSettings) -> list[list[int]]:
    mean = sum(weight for _, _, weight in edges) / len(edges)
    _, parts = _native_leiden(
        edges=[(first, second, weight / mean) for first, second, weight in edges],
        resolution=settings.density,
        iterations=5,
        trials=5,
        use_modularity=False,
        seed=settings.seed,
    )
    members: dict[int, list[int]] = {}
    for node, part in parts.items():
        members.setdefault(part, []).append(int(node))
    return [sorted(group) for group in members.values()]


def cluster_scores(strengths: Floats, cluster: Cluster) -> Floats:
    """Share of a cluster's features that fire on each row, weighted by how central they are: from 0 to 1.

    Args:
        strengths: How often or how strongly each feature fires on each row, ``[row, feature]``; only whether it is
            above zero counts.
        cluster: The cluster.
    """
    weights = np.asarray(cluster.centrality)
    return np.asarray((strengths[:, list(cluster.features)] > 0) @ weights / weights.sum(), dtype=np.float64)
