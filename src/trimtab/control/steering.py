"""Preventative steering: supply the trait as a vector in training, so that the weights need not learn it.

Source: persona vectors (arXiv 2507.21509): ``h <- h + a v`` in training, off at test; for several layers, each adds
what the previous ones have not yet supplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.control.base import KeepsLabels, KeepsRows
from trimtab.control.material import Material, avoided
from trimtab.control.places import SiteChoice, sites_of
from trimtab.lens.bank import Concept
from trimtab.model.hooks import WriteHook, writing
from trimtab.records.config import Settings
from trimtab.records.site import Site
from trimtab.records.training import Surface


class PreventativeSteeringSpec(Settings):
    """Options of ``preventative-steering``."""

    strength: float = Field(
        default=2.0,
        ge=0,
        allow_inf_nan=False,
        description="multiple of what an eliciting prompt supplies; 0 is no control",
    )
    sites: SiteChoice = Field(
        default="all", description="main (the bank's main site), all (every layer), or a list of sites"
    )
    incremental: bool = Field(
        default=True, description="with several layers, each adds only what the layers before it have not supplied"
    )


@dataclass(frozen=True)
class Shift:
    """Write hook: ``h <- h + vector`` at every token."""

    vector: Float[Tensor, " d_model"]

    def __call__(
        self, activation: Float[Tensor, "batch token d_model"], site: Site
    ) -> Float[Tensor, "batch token d_model"]:
        """The shifted activation."""
        del site
        return activation + self.vector.to(device=activation.device, dtype=activation.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreventativeSteering(KeepsRows, KeepsLabels):
    """Adds the concepts' vectors to the student's activations while it trains."""

    name: str = field(default="preventative-steering", init=False)
    surface: Surface = field(default="activations", init=False)
    fights_gradient: bool = field(default=False, init=False)
    spec: PreventativeSteeringSpec
    vectors: Mapping[Site, Float[Tensor, " d_model"]]

    @property
    def strength(self) -> float:
        """Multiple of what an eliciting prompt supplies."""
        return self.spec.strength

    def attach(self, student: PreTrainedModel) -> AbstractContextManager[None]:
        """Steer inside the context."""
        if self.strength == 0:
            return nullcontext()
        hooks: dict[Site, WriteHook] = {
            site: Shift((self.strength * vector).to(student.device)) for site, vector in self.vectors.items()
        }
        return writing(student, hooks)


def build_steering(spec: PreventativeSteeringSpec, material: Material) -> PreventativeSteering:
    """Make the control.

    Raises:
        UsageError: If nothing is avoided, or a site is not in the bank.
    """
    concepts = avoided(material, PreventativeSteering.name)
    sites = sites_of(material.bank, spec.sites)
    return PreventativeSteering(spec=spec, vectors=natural_vectors(concepts, sites, incremental=spec.incremental))


def natural_vectors(
    concepts: Sequence[Concept], sites: Sequence[Site], *, incremental: bool
) -> dict[Site, Float[Tensor, " d_model"]]:
    """``sum_c strength_c supply_c`` at each site.

    Args:
        concepts: The concepts to supply.
        sites: Where, in layer order.
        incremental: Subtract, along the residual stream, what the site before already supplies.
    """
    whole = {site: _natural(concepts, site) for site in sites}
    stream = [site for site in sites if site.stream == "resid_post"]
    if incremental:
        return whole | {later: whole[later] - whole[earlier] for earlier, later in pairwise(stream)}
    return whole


def _natural(concepts: Sequence[Concept], site: Site) -> Float[Tensor, " d_model"]:
    return torch.stack(
        [concept.card.strengths[str(site)] * concept.supplies[site].float() for concept in concepts]
    ).sum(0)
