"""The drawings of the page, each as one inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from markupsafe import Markup

from trimtab.records.figures import Figure, Measured
from trimtab.report.source import Curve
from trimtab.report.svg import Scale, drawing, tag
from trimtab.report.words import Unit, number, show
from trimtab.stats import pareto_hull

BAR_HEIGHT: Final = 18.0
_SCATTER_HEIGHT: Final = 300.0
_PANEL_HEIGHT: Final = 96.0
_LABEL_GAP: Final = 13


def bar(figure: Figure, scale: Scale, *, name: str, unit: Unit = "number", class_: str = "") -> Markup:
    """A bar from zero with its interval as a whisker; empty (no bar at all) where nothing was measured."""
    if not isinstance(figure, Measured):
        return Markup()
    zero, end = sorted((scale.share(0.0), scale.share(figure.value)))
    shown = show(figure, unit)
    return drawing(
        tag("rect", class_="fill", x=f"{100 * zero:.2f}%", y=4, width=f"{100 * (end - zero):.2f}%", height=10),
        *_whisker(figure, scale, BAR_HEIGHT / 2),
        tag("line", class_="zero", x1=scale.percent(0.0), x2=scale.percent(0.0), y1=0, y2=BAR_HEIGHT),
        title=f"{name}: {shown.text} {shown.interval}, {shown.n}",
        description="",
        height=BAR_HEIGHT,
        class_=f"bar {class_}".strip(),
    )


def dot(figure: Figure, scale: Scale, *, name: str, unit: Unit, class_: str = "") -> Markup:
    """A point with its interval beside a line at zero, for differences."""
    if not isinstance(figure, Measured):
        return Markup()
    shown = show(figure, unit)
    return drawing(
        tag("line", class_="zero", x1=scale.percent(0.0), x2=scale.percent(0.0), y1=0, y2=BAR_HEIGHT),
        *_whisker(figure, scale, BAR_HEIGHT / 2),
        tag("circle", class_="fill", cx=scale.percent(figure.value), cy=BAR_HEIGHT / 2, r=4),
        title=f"{name}: {shown.text} {shown.interval}, {shown.n}",
        description="",
        height=BAR_HEIGHT,
        class_=f"bar {class_}".strip(),
    )


def _whisker(figure: Measured, scale: Scale, y: float) -> tuple[Markup, ...]:
    low, high = scale.percent(figure.low), scale.percent(figure.high)
    return (
        tag("line", class_="whisker", x1=low, x2=high, y1=y, y2=y),
        *(tag("line", class_="whisker", x1=x, x2=x, y1=y - 3, y2=y + 3) for x in (low, high)),
    )


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One point of a scatter: less of ``cost`` and more of ``gain`` is better.

    Attributes:
        key: Short sign that stands beside the point and in the table.
        name: Full name, for the description.
        class_: CSS classes: ``fights``, ``best``, ``host``.
    """

    key: str
    name: str
    cost: Figure
    gain: Figure
    class_: str


def scatter(spots: Sequence[Spot], *, cost: str, gain: str) -> Markup:
    """Gain against cost, both shares from 0 to 1, with intervals and the upper hull. Unmeasured points are left out."""
    placed = [(s, s.cost, s.gain) for s in spots if isinstance(s.cost, Measured) and isinstance(s.gain, Measured)]
    hull = [placed[i] for i in pareto_hull([(x.value, y.value) for _, x, y in placed])]
    x, y = Scale(low=0.0, high=1.0), Scale(low=0.0, high=1.0)

    def down(value: float) -> float:
        return _SCATTER_HEIGHT * (1 - y.share(value))

    corners = [(a.value, b.value) for _, a, b in hull]
    border = [(corners[0][0], 0.0), *corners, (1.0, corners[-1][1])] if corners else []
    edges = [
        tag("line", class_="hull", x1=x.percent(a), y1=down(b), x2=x.percent(c), y2=down(d))
        for (a, b), (c, d) in pairwise(border)
    ]
    points = [
        tag(
            "g",
            tag("title", f"{spot.key} {spot.name}: {gain} {show(b, 'rate').text}, {cost} {show(a, 'rate').text}"),
            tag(
                "line", class_="whisker", x1=x.percent(a.low), x2=x.percent(a.high), y1=down(b.value), y2=down(b.value)
            ),
            tag(
                "line", class_="whisker", x1=x.percent(a.value), x2=x.percent(a.value), y1=down(b.low), y2=down(b.high)
            ),
            marker(x.percent(a.value), down(b.value), spot.class_),
            class_=f"spot {spot.class_}".strip(),
        )
        for spot, a, b in sorted(placed, key=lambda item: "best" in item[0].class_)
    ]
    labels = _labels([(spot, x.share(a.value), down(b.value)) for spot, a, b in placed])
    described = "; ".join(
        f"{spot.key} {spot.name}: {gain} {show(b, 'rate').text}, {cost} {show(a, 'rate').text}" for spot, a, b in placed
    )
    return drawing(
        *_frame(x, y, _SCATTER_HEIGHT),
        *edges,
        *points,
        *labels,
        title=f"{gain} against {cost}, one point per control",
        description=described or "no control has both figures measured",
        height=_SCATTER_HEIGHT,
        class_="plot",
    )


def marker(cx: str, cy: float, class_: str) -> Markup:
    """A circle; a hollow square for a control that fights the gradient; a ring for the host."""
    if "fights" in class_:
        square = tag("rect", class_="mark", x=-5, y=-5, width=10, height=10)
        return tag("svg", square, x=cx, y=cy, overflow="visible")
    return tag("circle", class_="mark", cx=cx, cy=cy, r=5)


def _labels(spots: Sequence[tuple[Spot, float, float]]) -> list[Markup]:
    """Keys beside their points; where points crowd, keys are pushed down and tied to their point by a thin line."""
    taken: list[tuple[float, float]] = []
    out: list[Markup] = []
    for spot, share, y in sorted(spots, key=lambda item: (item[2], item[1])):
        at = max(y, 4.0)
        while any(abs(at - b) < _LABEL_GAP and abs(share - a) < 0.09 for a, b in taken):
            at += 1.0
        taken.append((share, at))
        left = share > 0.9
        x, shift = f"{100 * share:.2f}%", -18.0 if left else 18.0
        tie = tag("line", class_="tie", x1=0, y1=y - at, x2=shift * 0.75, y2=0)
        key = tag("text", spot.key, class_="key", x=shift, y=4, text_anchor="end" if left else "start")
        out.append(tag("svg", tie, key, x=x, y=at, overflow="visible"))
    return out


def _frame(x: Scale, y: Scale, height: float) -> list[Markup]:
    """Grid lines and tick labels of a rate-against-rate plot."""
    out: list[Markup] = []
    for tick in y.ticks(4):
        at = height * (1 - y.share(tick))
        out.append(tag("line", class_="grid", x1="0%", x2="100%", y1=at, y2=at))
        out.append(tag("text", f"{100 * tick:g}%", class_="tick", x=-8, y=at + 4, text_anchor="end"))
    for tick in x.ticks(4):
        at_x = x.percent(tick)
        out.append(tag("line", class_="grid", x1=at_x, x2=at_x, y1=0, y2=height))
        out.append(tag("text", f"{100 * tick:g}%", class_="tick", x=at_x, y=height + 17, text_anchor="middle"))
    return out


def loss_scale(curves: Sequence[Curve]) -> Scale:
    """One scale for every panel: linear from zero, or logarithmic where losses span more than a factor of 30."""
    losses = [loss for curve in curves for _, loss in curve.points]
    low, high = min(losses, default=0.0), max(losses, default=1.0)
    if low > 0 and high / low > 30:
        return Scale(low=low / 1.15, high=high * 1.15, log=True)
    return Scale(low=min(0.0, low), high=high * 1.04 if high > 0 else 1.0)


def losses(curves: Mapping[str, Curve], scale: Scale, last: int, *, name: str, reference: Sequence[Curve]) -> Markup:
    """Loss by step, one line per seed, over the lines of no control in grey."""
    ticks: list[Markup] = []
    for value in scale.ticks(3):
        at = _PANEL_HEIGHT * (1 - scale.share(value))
        ticks.append(tag("line", class_="grid", x1="0%", x2="100%", y1=at, y2=at))
        ticks.append(tag("text", number(value), class_="tick", x=-6, y=at + 4, text_anchor="end"))
    steps = [
        tag("text", "0", class_="tick", x="0%", y=_PANEL_HEIGHT + 15),
        tag("text", f"{last:,}", class_="tick", x="100%", y=_PANEL_HEIGHT + 15, text_anchor="end"),
    ]
    lines = [_line(curve, scale, last, "reference") for curve in reference]
    lines += [_line(curve, scale, last, "seed") for curve in curves.values()]
    inner = tag(
        "svg",
        *lines,
        width="100%",
        height=_PANEL_HEIGHT,
        viewBox=f"0 0 1000 {_PANEL_HEIGHT:g}",
        preserveAspectRatio="none",
    )
    ends = ", ".join(f"seed {seed} ends at {number(c.points[-1][1])}" for seed, c in curves.items() if c.points)
    return drawing(
        *ticks,
        *steps,
        inner,
        title=f"Training loss of {name} by step",
        description=ends,
        height=_PANEL_HEIGHT,
        class_="plot panel",
    )


def _line(curve: Curve, scale: Scale, last: int, class_: str) -> Markup:
    """At most about 160 points, the last always among them."""
    stride = max(1, len(curve.points) // 160)
    kept = curve.points[::-1][::stride][::-1]
    points = " ".join(
        f"{1000 * step / max(1, last):.1f},{_PANEL_HEIGHT * (1 - scale.share(loss)):.1f}" for step, loss in kept
    )
    return tag("polyline", class_=class_, points=points, vector_effect="non-scaling-stroke")
