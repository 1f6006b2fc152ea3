"""A very small SVG writer: escaped elements, and a linear or logarithmic scale in per cent of the width.

Charts place things horizontally in per cent and vertically in pixels, so that one drawing fits a phone and a desk
without its text or strokes being stretched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

from trimtab.records.figures import Figure, Measured
from trimtab.report.words import clean


def tag(name: str, *children: str, **attributes: str | int | float) -> Markup:
    """One element. ``class_`` becomes ``class``, underscores become hyphens; plain strings are cleaned and escaped."""
    parts = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(value)) for key, value in attributes.items()
    ]
    inner = Markup("").join(child if isinstance(child, Markup) else escape(clean(child)) for child in children)
    opening = Markup("<{}{}").format(Markup(name), Markup("").join(parts))
    return opening + (Markup(">{}</{}>").format(inner, Markup(name)) if inner else Markup("/>"))


def _text(value: str | int | float) -> str:
    return clean(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def drawing(*children: str, title: str, description: str, height: float, class_: str) -> Markup:
    """An ``svg`` element with an accessible name and description."""
    names = (tag("title", title), tag("desc", description)) if description else (tag("title", title),)
    return tag("svg", *names, *children, role="img", class_=class_, width="100%", height=height)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values to a share of the width or height.

    Attributes:
        low: Value at 0%.
        high: Value at 100%.
        log: Whether the scale is logarithmic; both ends are positive then.
    """

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1, clipped to the ends."""
        if self.high <= self.low:
            return 0.0
        value = min(self.high, max(self.low, value))
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """Where a value lies, as an SVG length."""
        return f"{100 * self.share(value):.2f}%"

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values from ``low`` to ``high``."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / most))
            return tuple(10.0**power for power in range(first, last + 1, every))
        width = (self.high - self.low) / most
        if width <= 0:
            return (self.low,)
        unit = float(10.0 ** math.floor(math.log10(width)))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= width * 0.999)
        start, end = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(round(i * step, 12) for i in range(start, end + 1))


def scale_of(figures: Iterable[Figure], *, pad: float = 0.04) -> Scale:
    """A linear scale that holds zero and every measured interval, with some air at the ends that are not zero."""
    ends = [x for figure in figures if isinstance(figure, Measured) for x in (figure.value, figure.low, figure.high)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if low == high:
        return Scale(low=0.0, high=1.0)
    air = pad * (high - low)
    return Scale(low=low - air if low < 0 else 0.0, high=high + air if high > 0 else 0.0)
