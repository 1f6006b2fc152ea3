"""A figure is measured or it is not: never zero by default (DESIGN, principle 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from typing_extensions import override

from trimtab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured figure with its interval.

    Attributes:
        value: Point estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of independent units behind it (rows, answers, pairs or seeds: the owner's docstring says which).
        level: Confidence level of the interval.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise UsageError(
                f"Measured(value={self.value}, low={self.low}, high={self.high})",
                allowed="finite numbers",
                todo="use Unmeasured(reason=...) for a figure that could not be measured",
            )

    @override
    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """A figure that was not measured, and why. ``value`` is always ``None`` (``null`` in JSON)."""

    reason: str
    value: None = None

    @override
    def __str__(self) -> str:
        return f"unmeasured ({self.reason})"


Figure: TypeAlias = Measured | Unmeasured
