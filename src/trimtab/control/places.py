"""Sites and directions that the activation and gradient controls share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.errors import UsageError
from trimtab.lens.bank import Bank, Concept
from trimtab.records.site import Site

SiteChoice: TypeAlias = Literal["main", "all"] | tuple[str, ...]


def sites_of(bank: Bank, choice: SiteChoice) -> tuple[Site, ...]:
    """Sites by choice, in layer order: the bank's main site, all its ``resid_post`` sites, or a list.

    Raises:
        UsageError: If a site is not in the bank, or if there is none.
    """
    if choice == "main":
        return (bank.card.site,)
    if choice == "all":
        return tuple(sorted(site for site in bank.card.sites if site.stream == "resid_post"))
    sites = sorted({Site.parse(text) for text in choice})
    missing = [str(site) for site in sites if site not in bank.card.sites]
    if missing or not sites:
        raise UsageError(
            f"sites {', '.join(missing) or '[]'}",
            allowed=f"`main`, `all`, or a list out of {', '.join(map(str, bank.card.sites))} (bank {bank.card.name!r})",
            todo="choose among these, or make the bank again with more sites",
        )
    return tuple(sites)


def span(concepts: Sequence[Concept], site: Site) -> Float[Tensor, "concept d_model"]:
    """Orthonormal basis of what some concepts' directions span at a site; fewer rows where they are dependent."""
    stacked = torch.stack([concept.supplies[site].float() for concept in concepts])
    _, sizes, basis = cast("tuple[Tensor, Tensor, Tensor]", torch.linalg.svd(stacked, full_matrices=False))
    return basis[sizes > 1e-4 * sizes[0]].contiguous()


def without(
    values: Float[Tensor, "batch token d_model"], basis: Float[Tensor, "concept d_model"], strength: float
) -> Float[Tensor, "batch token d_model"]:
    """``x - strength * P x`` with ``P`` the projection on an orthonormal basis; computed in float32."""
    rows = basis.to(values.device)
    wide = values.float()
    return (wide - strength * ((wide @ rows.T) @ rows)).to(values.dtype)
