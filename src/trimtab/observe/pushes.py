"""The activation-gradient decomposition (METHODS §1): where a dataset pulls, in named concepts.

At a site the step wants to move ``h`` by ``-g``. The push of a concept is ``-<g, d>``; the dataset's push is the mean
over rows. Intervals are by bootstrap over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from trimtab.lens.bank import Bank
from trimtab.lens.directions import doses, explain, norms
from trimtab.lens.extract import bank_basis
from trimtab.lens.readings import Readings
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.site import Site


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """The mean gradient of a dataset at one site, decomposed.

    Attributes:
        push: By concept.
        cosine: By concept.
        dose: By concept.
        mass: Norm of the mean gradient.
        unexplained_share: Share of its squared norm outside the bank's span.
        unexplained_mass: Norm of that part.
        unexplained: Unit vector of minus that part: the direction in which the unnamed lesson pulls.
        row_push: float32 ``[row, concept]``.
        row_dose: float32 ``[row, concept]``: each row's own gradient fitted on the signatures.
        row_unnamed: float32 ``[row]``: each row's push along ``unexplained``.
    """

    push: tuple[Figure, ...]
    cosine: tuple[Figure, ...]
    dose: tuple[Figure, ...]
    mass: Figure
    unexplained_share: Figure
    unexplained_mass: Figure
    unexplained: Float[Tensor, " d_model"]
    row_push: NDArray[np.float32]
    row_dose: NDArray[np.float32]
    row_unnamed: NDArray[np.float32]


def _figure(value: float, draws: NDArray[np.float64], n: int) -> Figure:
    if n < 2:
        return Unmeasured(reason=f"{n} row; an interval over rows needs at least 2")
    low, high = np.quantile(draws, [0.025, 0.975])
    return Measured(value=value, low=min(float(low), value), high=max(float(high), value), n=n)


def resampled_means(rows: Float[Tensor, "row width"], *, resamples: int, seed: int) -> Float[Tensor, "resample width"]:
    """Means over bootstrap resamples of the rows (float64), the same resamples for the same seed and row count."""
    count = rows.shape[0]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return torch.from_numpy(weights / count) @ rows.double()


def decompose(readings: Readings, bank: Bank, site: Site, *, resamples: int = 1000, seed: int = 0) -> Decomposition:
    """Decompose a dataset's mean gradient at one site into the concepts of a bank.

    Args:
        readings: Rows read at ``site`` with gradients.
        bank: The host's bank.
        site: Where.
        resamples: Bootstrap resamples over rows.
        seed: Seed of the bootstrap.
    """
    pull = -readings.gradients[site].double()
    count = pull.shape[0]
    directions = torch.stack([concept.supplies[site] for concept in bank.concepts]).double()
    signatures = torch.stack([concept.signatures[site] for concept in bank.concepts]).double()
    basis = bank_basis(bank.concepts, site)
    mean, draws = pull.mean(0), resampled_means(pull, resamples=resamples, seed=seed)
    draw_norms = norms(draws)
    push_draws = draws @ directions.T
    rest = draws - (draws @ basis.T) @ basis
    rest_norms = norms(rest)
    whole = explain(mean, basis)
    fits = Doses(signatures)
    dose, dose_draws = fits(mean), torch.stack([fits(draw) for draw in draws[:300]])
    push = directions @ mean
    cosine, cosine_draws = push / whole.mass, push_draws / draw_norms[:, None].clamp_min(1e-30)
    toward = whole.unexplained / max(whole.unexplained_mass, 1e-30)

    def figures(values: Tensor, by_draw: Tensor) -> tuple[Figure, ...]:
        return tuple(_figure(float(v), by_draw[:, i].numpy(), count) for i, v in enumerate(values))

    return Decomposition(
        push=figures(push, push_draws),
        cosine=figures(cosine, cosine_draws),
        dose=figures(dose, dose_draws),
        mass=_figure(whole.mass, draw_norms.numpy(), count),
        unexplained_share=_figure(
            whole.unexplained_share, (rest_norms / draw_norms.clamp_min(1e-30)).square().numpy(), count
        ),
        unexplained_mass=_figure(whole.unexplained_mass, rest_norms.numpy(), count),
        unexplained=toward.float(),
        row_push=(pull @ directions.T).numpy().astype(np.float32),
        row_dose=torch.stack([fits(row) for row in pull]).numpy().astype(np.float32),
        row_unnamed=(pull @ toward).numpy().astype(np.float32),
    )


class Doses:
    """Non-negative fits on the same signatures, many times: the signatures are rotated into their own span once."""

    def __init__(self, signatures: Float[Tensor, "concept d_model"]) -> None:
        self._rotation, self._signatures = torch.linalg.qr(signatures.T)

    def __call__(self, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " concept"]:
        """Doses of one vector: the same as ``lens.directions.doses`` on the whole vector."""
        return doses(self._rotation.T @ vector, self._signatures.T)


def site_pushes(
    readings: Readings, bank: Bank, sites: Sequence[Site], *, resamples: int = 500, seed: int = 0
) -> dict[Site, tuple[tuple[Figure, Figure], ...]]:
    """Push and cosine of every concept at every site, without the fits."""
    found: dict[Site, tuple[tuple[Figure, Figure], ...]] = {}
    for site in sites:
        pull = -readings.gradients[site].double()
        directions = torch.stack([concept.supplies[site] for concept in bank.concepts]).double()
        mean, draws = pull.mean(0), resampled_means(pull, resamples=resamples, seed=seed)
        push, push_draws = directions @ mean, draws @ directions.T
        norm = norms(mean[None])[0].clamp_min(1e-30)
        draw_norms = norms(draws).clamp_min(1e-30)
        found[site] = tuple(
            (
                _figure(float(push[i]), push_draws[:, i].numpy(), pull.shape[0]),
                _figure(float(push[i] / norm), (push_draws[:, i] / draw_norms).numpy(), pull.shape[0]),
            )
            for i in range(len(bank.concepts))
        )
    return found
