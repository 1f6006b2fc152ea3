"""Concept ablation: take the trait's directions out of the activations while training.

Source: concept ablation fine-tuning, CAFT (arXiv 2507.16795).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.control.base import KeepsLabels, KeepsRows
from trimtab.control.material import Material, avoided
from trimtab.control.places import SiteChoice, sites_of, span, without
from trimtab.model.hooks import WriteHook, writing
from trimtab.records.config import Settings
from trimtab.records.site import Site
from trimtab.records.training import Surface


class ConceptAblationSpec(Settings):
    """Options of ``concept-ablation``."""

    strength: float = Field(1.0, ge=0, le=1, description="share of the component that is taken out; 0 is no control")
    sites: SiteChoice = Field("all", description="main (the bank's main site), all (every layer), or a list of sites")


@dataclass(frozen=True)
class TakeOut:
    """Write hook: ``x <- x - strength * P x``, on activations or on their gradients."""

    basis: Float[Tensor, "concept d_model"]
    strength: float

    def __call__(
        self, activation: Float[Tensor, "batch token d_model"], site: Site
    ) -> Float[Tensor, "batch token d_model"]:
        """The activation without its component in the span."""
        del site
        return without(activation, self.basis, self.strength)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConceptAblation(KeepsRows, KeepsLabels):
    """Projects the concepts' directions out of the student's activations while it trains."""

    name: str = field(default="concept-ablation", init=False)
    surface: Surface = field(default="activations", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: ConceptAblationSpec
    bases: Mapping[Site, Float[Tensor, "concept d_model"]]

    @property
    def strength(self) -> float:
        """Share of the component that is taken out."""
        return self.spec.strength

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        """Ablate inside the context."""
        if self.strength == 0:
            return nullcontext()
        hooks: dict[Site, WriteHook] = {
            site: TakeOut(basis.to(student.device), self.strength) for site, basis in self.bases.items()
        }
        return writing(student, hooks)


def build_ablation(spec: ConceptAblationSpec, material: Material) -> ConceptAblation:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, or a site is not in the bank.
    """
    concepts = avoided(material, ConceptAblation.name)
    return ConceptAblation(
        spec=spec, bases={site: span(concepts, site) for site in sites_of(material.bank, spec.sites)}
    )
