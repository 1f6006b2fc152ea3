"""Gradient projection: block the gradient along the trait's directions. A baseline that fights backprop.

The data goes on pushing; the layers and directions that are not blocked learn the trait instead. Kept to measure that,
marked as fighting, and never chosen automatically.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.control.ablation import TakeOut
from trimtab.control.base import KeepsLabels, KeepsRows
from trimtab.control.material import Material, avoided
from trimtab.control.places import sites_of, span
from trimtab.model.hooks import WriteHook, gradient_writing
from trimtab.records.config import Settings
from trimtab.records.site import Site
from trimtab.records.training import Surface


class GradientProjectionSpec(Settings):
    """Options of ``gradient-projection``."""

    strength: float = Field(1.0, ge=0, le=1, description="share of the component that is taken out; 0 is no control")
    layers: Literal["one", "all"] = Field("one", description="one (the bank's main site) or all (every layer)")


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientProjection(KeepsRows, KeepsLabels):
    """``g <- g - P g`` on the way back; the forward pass is untouched."""

    name: str = field(default="gradient-projection", init=False)
    surface: Surface = field(default="gradient", init=False)
    fights_gradient: bool = field(default=True, init=False)
    spec: GradientProjectionSpec
    bases: Mapping[Site, Float[Tensor, "concept d_model"]]

    @property
    def strength(self) -> float:
        """Share of the component that is taken out."""
        return self.spec.strength

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        """Project gradients inside the context."""
        if self.strength == 0:
            return nullcontext()
        hooks: dict[Site, WriteHook] = {
            site: TakeOut(basis.to(student.device), self.strength) for site, basis in self.bases.items()
        }
        return gradient_writing(student, hooks)


def build_gradient_projection(spec: GradientProjectionSpec, material: Material) -> GradientProjection:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided.
    """
    concepts = avoided(material, GradientProjection.name)
    sites = sites_of(material.bank, "main" if spec.layers == "one" else "all")
    return GradientProjection(spec=spec, bases={site: span(concepts, site) for site in sites})
