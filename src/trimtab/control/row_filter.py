"""Row filter: leave out the rows that show the trait. The plainest control, and the one to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from trimtab.control.base import AttachesNothing, KeepsLabels
from trimtab.control.material import (
    Material,
    avoided,
    check_source,
    hardest_push,
    needed_attribution,
    rows_that_show,
    strongest,
)
from trimtab.errors import UsageError
from trimtab.records.config import Settings
from trimtab.records.training import Surface, TrainingRow


class RowFilterSpec(Settings):
    """Options of ``row-filter``."""

    strength: float = Field(
        1.0, ge=0, le=1, description="share of trait rows to drop, hardest push first; 0 is no control"
    )


@dataclass(frozen=True, kw_only=True)
class RowFilter(KeepsLabels, AttachesNothing):
    """Drops rows."""

    name: str = field(default="row-filter", init=False)
    surface: Surface = field(default="data", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: RowFilterSpec
    dropped: NDArray[np.bool_]

    @property
    def strength(self) -> float:
        """Share of trait rows to drop."""
        return self.spec.strength

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """The rows that stay, in order.

        Raises:
            UsageError: If none of the user's rows stays, or a row is not in the attribution.
        """
        if self.strength == 0:
            return rows
        for row in rows:
            check_source(row, len(self.dropped))
        kept = [row for row in rows if row.source < 0 or not self.dropped[row.source]]
        if not any(row.source >= 0 for row in kept):
            raise _nothing_left(sum(row.source >= 0 for row in rows))
        return kept


def build_row_filter(spec: RowFilterSpec, material: Material) -> RowFilter:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, no row shows it, or every row would be dropped.
    """
    concepts = avoided(material, RowFilter.name)
    attribution = needed_attribution(material, RowFilter.name, concepts)
    shown = rows_that_show(attribution, concepts, RowFilter.name)
    dropped = strongest(hardest_push(attribution.rows, attribution, concepts), shown, spec.strength)
    if dropped.all():
        raise _nothing_left(len(dropped))
    return RowFilter(spec=spec, dropped=dropped)


def _nothing_left(count: int) -> UsageError:
    return UsageError(
        f"row-filter would drop {count} of {count} rows: every row shows an avoided concept",
        allowed="data of which some rows stay",
        todo="use conditional-inoculation or token-mask, which keep the rows, or a strength below 1",
    )
