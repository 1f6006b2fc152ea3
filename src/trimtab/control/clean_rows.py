"""Clean rows: mix in rows that do not show the trait. The simple baseline for everything that adds data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from trimtab.control.base import AttachesNothing, KeepsLabels
from trimtab.control.material import Material, clean_training_rows
from trimtab.records.config import Settings
from trimtab.records.training import Surface, TrainingRow


class CleanRowsSpec(Settings):
    """Options of ``clean-rows``."""

    strength: float = Field(1.0, ge=0, le=1, description="scale of clean_share; 0 is no control")
    clean_share: float = Field(0.5, gt=0, description="clean rows to add, as a share of the number of rows")


@dataclass(frozen=True, kw_only=True)
class CleanRows(KeepsLabels, AttachesNothing):
    """Adds clean rows at the end; training shuffles them in."""

    name: str = field(default="clean-rows", init=False)
    surface: Surface = field(default="data", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: CleanRowsSpec
    material: Material

    @property
    def strength(self) -> float:
        """Scale of ``clean_share``."""
        return self.spec.strength

    def rewrite(self, rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """The rows, then the clean ones."""
        if self.strength == 0:
            return rows
        own = sum(row.source >= 0 for row in rows)
        extra = max(1, round(self.strength * self.spec.clean_share * own))
        return [*rows, *clean_training_rows(self.material, self.name, extra)]


def build_clean_rows(spec: CleanRowsSpec, material: Material) -> CleanRows:
    """Make the control.

    Raises:
        UsageError: If there are no clean rows.
    """
    clean_training_rows(material, CleanRows.name, int(spec.strength > 0))
    return CleanRows(spec=spec, material=material)
