"""What every statistic takes: one number or truth value per unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trimtab.errors import UsageError

Values: TypeAlias = Sequence[float | int] | NDArray[Any]
"""Numbers or truth values, one per unit."""

Floats: TypeAlias = NDArray[np.float64]

BATCH_NUMBERS: Final = 4_000_000
"""Numbers held at once while resampling (32 MB)."""


def floats(values: Values) -> Floats:
    """The values as one flat float64 array, shape ``[n]``."""
    return np.asarray(values, dtype=np.float64).reshape(-1)


def paired_floats(a: Values, b: Values) -> tuple[Floats, Floats]:
    """Both samples as arrays of one length.

    Raises:
        UsageError: If they differ in length.
    """
    first, second = floats(a), floats(b)
    if first.size != second.size:
        raise UsageError(
            f"samples of {first.size} and {second.size} values",
            allowed="one value of each per unit",
            todo="pair the samples unit by unit first",
        )
    return first, second
