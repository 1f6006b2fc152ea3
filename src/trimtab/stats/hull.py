"""The Pareto hull: which choices no mixture of the others beats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.errors import UsageError


def pareto_hull(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """The choices that no mixture of the others beats, as indices in order of rising cost.

    A point is ``(cost, gain)``: less of the first and more of the second is better. Because one can answer with one
    model some of the time and with another the rest, what counts is the upper convex hull, not the staircase. Points
    on an edge of the hull and equal points all count as on it.

    Raises:
        UsageError: If a coordinate is not finite.
    """
    if not all(math.isfinite(cost) and math.isfinite(gain) for cost, gain in points):
        raise UsageError(
            "a point that is not finite", allowed="finite (cost, gain) pairs", todo="leave unmeasured points out"
        )
    corners: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if corners and point[1] <= corners[-1][1]:
            continue  # costs more (or the same) and gains no more
        while len(corners) >= 2 and _turn(corners[-2], corners[-1], point) > 0:
            corners.pop()
        corners.append(point)
    on_hull = set(corners)
    return tuple(sorted((i for i, p in enumerate(points) if p in on_hull), key=lambda i: (points[i][0], i)))


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive if ``b`` lies strictly below the line from ``a`` to ``c``, zero within rounding of it."""
    rise, run = (c[1] - a[1]) * (b[0] - a[0]), (b[1] - a[1]) * (c[0] - a[0])
    return 0.0 if math.isclose(rise, run, rel_tol=1e-9, abs_tol=0.0) else rise - run
