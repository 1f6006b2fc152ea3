"""The drawings of the page of claims: wrong claims against claims per answer, and the curves of training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from trimtab.records.figures import Figure, Measured
from trimtab.records.hallucination import Curve
from trimtab.report.charts import marker
from trimtab.report.svg import Scale, drawing, scale_of, tag
from trimtab.report.words import listed, number, show

_HEIGHT: Final = 230.0
_PANEL: Final = 96.0
_LINE: Final = 15.0
_POINTS: Final = 160


@dataclass(frozen=True, kw_only=True)
class StagePoint:
    """One stage, or one seed of it.

    Attributes:
        name: What stands beside it; empty for a seed, which is drawn small and without its interval.
        claims: Stated claims per answer.
        wrong: Share of them that are asserted and wrong.
        class_: CSS classes of ``charts.marker``.
    """

    name: str
    claims: Figure
    wrong: Figure
    class_: str = ""


def tradeoff(points: Sequence[StagePoint]) -> Markup:
    """Wrong claims against claims per answer with intervals; empty where no point has both figures measured."""
    placed = [
        (p, p.claims, p.wrong) for p in points if isinstance(p.claims, Measured) and isinstance(p.wrong, Measured)
    ]
    if not placed:
        return Markup()
    x, y = scale_of(claims for _, claims, _ in placed), scale_of(wrong for _, _, wrong in placed)

    def down(value: float) -> float:
        return _HEIGHT * (1 - y.share(value))

    seeds = [
        tag("circle", class_="seed", cx=x.percent(claims.value), cy=down(wrong.value), r=2.5)
        for point, claims, wrong in placed
        if not point.name
    ]
    named = [item for item in placed if item[0].name]
    return drawing(
        *_frame(x, y),
        *seeds,
        *(_spot(point, claims, wrong, x, y) for point, claims, wrong in named),
        *_names([(point.name, x.share(claims.value), down(wrong.value)) for point, claims, wrong in named]),
        title="Share of wrong claims against claims per answer, by stage",
        description="; ".join(
            f"{point.name}: {show(wrong, 'rate').text} wrong, {number(claims.value)} claims per answer"
            for point, claims, wrong in named
        ),
        height=_HEIGHT,
        class_="plot",
    )


def _spot(point: StagePoint, claims: Measured, wrong: Measured, x: Scale, y: Scale) -> Markup:
    at_x, at_y = x.percent(claims.value), _HEIGHT * (1 - y.share(wrong.value))
    top, bottom = _HEIGHT * (1 - y.share(wrong.high)), _HEIGHT * (1 - y.share(wrong.low))
    return tag(
        "g",
        tag("line", class_="whisker", x1=x.percent(claims.low), x2=x.percent(claims.high), y1=at_y, y2=at_y),
        tag("line", class_="whisker", x1=at_x, x2=at_x, y1=top, y2=bottom),
        marker(at_x, at_y, point.class_),
        class_=f"spot {point.class_}".strip(),
    )


def _names(points: Sequence[tuple[str, float, float]]) -> Iterable[Markup]:
    """Names above and beside their points, on the side with more room; names that would collide move up a line."""
    taken: list[tuple[bool, float]] = []
    for name, share, y in sorted(points, key=lambda item: -item[2]):
        left, at = share > 0.5, y - 9.0
        while any(side == left and abs(at - other) < _LINE for side, other in taken):
            at -= 1.0
        taken.append((left, at))
        text = tag("text", name, class_="key", x=-8 if left else 8, y=0, text_anchor="end" if left else "start")
        yield tag("svg", text, x=f"{100 * share:.2f}%", y=at, overflow="visible")


def _frame(x: Scale, y: Scale) -> Iterable[Markup]:
    for tick in y.ticks(4):
        at = _HEIGHT * (1 - y.share(tick))
        yield tag("line", class_="grid", x1="0%", x2="100%", y1=at, y2=at)
        yield tag("text", f"{100 * tick:g}%", class_="tick", x=-8, y=at + 4, text_anchor="end")
    for tick in x.ticks(5):
        at_x = x.percent(tick)
        yield tag("line", class_="grid", x1=at_x, x2=at_x, y1=0, y2=_HEIGHT)
        yield tag("text", f"{tick:g}", class_="tick", x=at_x, y=_HEIGHT + 17, text_anchor="middle")


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """Every curve of one name.

    Attributes:
        name: What is drawn.
        drawing: The lines; empty where no value is finite.
        ends: Last value of every curve, in words.
        broken: Where values were not finite; empty where all were.
    """

    name: str
    drawing: Markup
    ends: str
    broken: str


def curve_panels(curves: Sequence[Curve]) -> tuple[CurvePanel, ...]:
    """One panel per name in the order given, each on its own scale, all with the same steps from left to right."""
    by_name: dict[str, list[Curve]] = {}
    for curve in curves:
        by_name.setdefault(curve.name, []).append(curve)
    last = max((step for curve in curves for step in curve.steps), default=1)
    return tuple(_panel(name, group, last) for name, group in by_name.items())


def _panel(name: str, curves: Sequence[Curve], last: int) -> CurvePanel:
    points = [
        [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if math.isfinite(value)]
        for curve in curves
    ]
    broken = sorted(
        step
        for curve in curves
        for step, value in zip(curve.steps, curve.values, strict=True)
        if not math.isfinite(value)
    )
    drawn = [line for line in points if line]
    ends = listed([number(line[-1][1]) for line in drawn])
    return CurvePanel(
        name=name,
        drawing=_lines(name, drawn, last, ends),
        ends=ends,
        broken=f"not finite at step {broken[0]:,}" if broken else "",
    )


def _lines(name: str, lines: Sequence[Sequence[tuple[int, float]]], last: int, ends: str) -> Markup:
    if not lines:
        return Markup()
    scale = _range(value for line in lines for _, value in line)

    def down(value: float) -> float:
        return _PANEL * (1 - scale.share(value))

    marks: list[Markup] = []
    for tick in scale.ticks(3):
        class_ = "grid zero" if tick == 0 and scale.low < 0 else "grid"
        marks.append(tag("line", class_=class_, x1="0%", x2="100%", y1=down(tick), y2=down(tick)))
        marks.append(tag("text", number(tick), class_="tick", x=-6, y=down(tick) + 4, text_anchor="end"))
    marks.append(tag("text", "0", class_="tick", x="0%", y=_PANEL + 15))
    marks.append(tag("text", f"{last:,}", class_="tick", x="100%", y=_PANEL + 15, text_anchor="end"))
    shape: Mapping[str, str] = {"viewBox": f"0 0 1000 {_PANEL:g}", "preserveAspectRatio": "none"}
    inner = [
        tag(
            "polyline",
            points=" ".join(f"{1000 * step / max(1, last):.1f},{down(value):.1f}" for step, value in _thinned(line)),
            vector_effect="non-scaling-stroke",
        )
        for line in lines
    ]
    return drawing(
        *marks,
        tag("svg", *inner, width="100%", height=_PANEL, **shape),
        title=f"{name} by step",
        description=f"ends at {ends}",
        height=_PANEL,
        class_="plot panel",
    )


def _thinned(line: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """At most about ``_POINTS`` points, the last always among them."""
    stride = max(1, len(line) // _POINTS)
    return line[::-1][::stride][::-1]


def _range(values: Iterable[float]) -> Scale:
    """The values with some air; from zero where that costs less than half of the height."""
    kept = list(values)
    low, high = min(kept), max(kept)
    if 0 < low < high / 2:
        low = 0.0
    elif low / 2 < high < 0:
        high = 0.0
    air = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low=low - air if low else 0.0, high=high + air if high else 0.0)
