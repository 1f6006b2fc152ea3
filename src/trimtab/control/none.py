"""No control: plain supervised fine-tuning. The baseline that every other control is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from trimtab.control.base import AttachesNothing, KeepsLabels, KeepsRows
from trimtab.control.material import Material
from trimtab.records.config import Settings
from trimtab.records.training import Surface


class NoControlSpec(Settings):
    """No control has no options."""


@dataclass(frozen=True, kw_only=True)
class NoControl(KeepsRows, KeepsLabels, AttachesNothing):
    """Changes nothing."""

    name: str = field(default="none", init=False)
    surface: Surface = field(default="data", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: NoControlSpec
    strength: float = field(default=0.0, init=False)


def build_none(spec: NoControlSpec, material: Material) -> NoControl:  # noqa: ARG001
    """Plain training needs nothing."""
    return NoControl(spec=spec)
