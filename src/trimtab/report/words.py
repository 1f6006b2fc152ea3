"""Text and figures as they may stand on a page: made visible, cut sensibly, never a zero for what was not measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, assert_never

from trimtab.records.figures import Figure, Measured, Unmeasured

Unit: TypeAlias = Literal["rate", "points", "number"]
"""``rate``: a share, shown in per cent. ``points``: a difference of shares, in percentage points. ``number``: as is."""

_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """Make the invisible visible: control, bidirectional-override and tag characters as symbols or ``⟨U+202E⟩``.

    Tabs, line ends and the joiners that real scripts need stay as they are. HTML escaping is not done here.
    """
    return _HIDDEN.sub(_visible, text.replace("\r\n", "\n").replace("\r", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """A text that fits on a page.

    Attributes:
        text: The text, or its beginning.
        note: Says that it was cut and how long it was; empty if nothing is missing.
    """

    text: str
    note: str


def excerpt(text: str, limit: int = 900, lines: int = 24) -> Excerpt:
    """The beginning of a text, cut at a word where there is one near, at most so many characters and lines."""
    kept = "\n".join(text[:limit].split("\n")[:lines])
    if len(kept) == len(text):
        return Excerpt(text=text, note="")
    space = max(kept.rfind(" "), kept.rfind("\n"))
    if len(kept) == limit and space > 0.8 * limit:
        kept = kept[:space]
    return Excerpt(text=kept.rstrip(), note=f"cut here; {len(text):,} characters in all")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure in words.

    Attributes:
        measured: Whether there is a figure.
        text: The value, or ``unmeasured: reason``.
        interval: The interval in brackets; empty where there is none.
        n: What ``n`` says, such as ``n = 300``; empty where there is none.
    """

    measured: bool
    text: str
    interval: str = ""
    n: str = ""


def show(figure: Figure, unit: Unit = "number", places: int | None = None) -> Shown:
    """A figure in words; an unmeasured one keeps its reason and gets no number. ``places``: decimals of a number."""
    match figure:
        case Measured():
            low, high = number(figure.low, unit, places), number(figure.high, unit, places)
            return Shown(
                measured=True,
                text=number(figure.value, unit, places) + {"rate": "%", "points": " pp", "number": ""}[unit],
                interval=f"[{low}, {high}]",
                n=f"n = {figure.n:,}",
            )
        case Unmeasured():
            return Shown(measured=False, text=f"unmeasured: {figure.reason}")
        case _:
            assert_never(figure)


def number(value: float, unit: Unit = "number", places: int | None = None) -> str:
    """Digits without the unit's sign; differences keep their plus, small rates their decimal."""
    if unit == "number" and places is not None:
        text = f"{value:,.{places}f}"
    elif unit == "number":
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    elif unit == "rate":
        text = _percent(value)
    else:
        text = f"{100 * value:+.1f}" if value else "0"
    return text.replace("-", "\u2212") if "e" not in text else text.replace("e-0", "e-")


def _percent(value: float) -> str:
    """One decimal; exact 0 and 100 without; more decimals where one would round to 0 or 100 what is neither."""
    if value in (0.0, 1.0):
        return f"{100 * value:.0f}"
    for places in (1, 2, 3):
        text = f"{100 * value:.{places}f}"
        if float(text) not in (0.0, 100.0):
            return text
    return "< 0.001" if value < 0.5 else "> 99.999"


def places_of(figures: Iterable[Figure]) -> int:
    """Decimals that give the largest value of a column three digits, so that the column lines up."""
    top = max((abs(figure.value) for figure in figures if isinstance(figure, Measured)), default=1.0)
    return min(9, max(0, 2 - math.floor(math.log10(top)))) if top > 0 else 2


def sentence(figure: Figure, unit: Unit = "rate") -> str:
    """A figure inside a sentence: the value without interval, or ``unmeasured (reason)``."""
    match figure:
        case Measured():
            return show(figure, unit).text
        case Unmeasured():
            return f"unmeasured ({figure.reason})"
        case _:
            assert_never(figure)


def listed(names: Sequence[str], *, most: int = 8) -> str:
    """``a, b and c``; long lists end in ``and 5 more``."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1] if shown else ""


def plural(count: int, one: str, many: str | None = None) -> str:
    """``1 row``, ``2 rows``, ``1,024 rows``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
