"""What each architecture minimises, on one batch.

Tokens come scaled to norm ``sqrt(d_model)``, and the reconstruction error is divided by the variance of the tokens, so
that the loss is the share of variance left unexplained (FVU) and every weight beside it keeps its meaning from one
model to another.

* ``topk`` (Gao et al., 2406.04093): the k highest of every token.
* ``batchtopk`` (Bussmann et al., 2412.06410): the k times n highest of a batch of n tokens.
* ``matryoshka`` (Bussmann et al., 2503.17547): batchtopk, and the mean error over nested prefixes of the features.
* ``jumprelu`` (Rajamanoharan et al., 2407.14435): those above a learned threshold each, with the L0 penalty
  ``(L0 / k - 1)^2`` and straight-through gradients to the thresholds.

All four add AuxK (2406.04093, appendix A.2): features that have not fired for long rebuild the error of the others. By
default as many of them on a token as are active on it, where the paper takes half of ``d_model``: what they learn is
then as sparse as what they are to join.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from trimtab.lens.sae.sparse import (
    Places,
    batch_threshold,
    decode_at,
    places_above,
    preactivations_at,
    top_k_places,
)
from trimtab.records.sae import SaeSettings


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is trained; leaves of the autograd graph.

    Attributes:
        encoder: Row ``f`` is what feature ``f`` looks for.
        encoder_bias: Added to every pre-activation.
        decoder: Row ``f`` is what feature ``f`` writes; of norm 1.
        decoder_bias: Subtracted from every token, added to every reconstruction.
        threshold: JumpReLU's thresholds; empty for other architectures.
    """

    encoder: Float[Tensor, "feature d_model"]
    encoder_bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature d_model"]
    decoder_bias: Float[Tensor, " d_model"]
    threshold: Float[Tensor, " gate"]

    def named(self) -> dict[str, Tensor]:
        """All of them by name."""
        return {item.name: cast("Tensor", getattr(self, item.name)) for item in fields(self)}


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """The loss of a batch and what it says.

    Attributes:
        loss: What is minimised.
        fvu: Share of variance left unexplained by all features.
        l0: Mean number of active features on a token.
        fired: Which features fired.
    """

    loss: Float[Tensor, ""]
    fvu: Float[Tensor, ""]
    l0: Float[Tensor, ""]
    fired: Bool[Tensor, " feature"]


class _Jump(torch.autograd.Function):
    """``z H(z - theta)``, with the pseudo-derivative of 2407.14435 (eq. 11) to the threshold."""

    @staticmethod
    @override
    def forward(ctx: Any, *args: Any) -> Tensor:
        seen, bar, bandwidth = cast("tuple[Tensor, Tensor, float]", args)
        ctx.save_for_backward(seen, bar)
        ctx.bandwidth = bandwidth
        return seen * (seen > bar)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        seen, bar = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        grad = cast("Tensor", grads[0])
        near = (seen - bar).abs() < ctx.bandwidth / 2
        return grad * (seen > bar), -grad * near * bar / ctx.bandwidth, None


class _Step(torch.autograd.Function):
    """``H(z - theta)``, with the pseudo-derivative of 2407.14435 (eq. 12) to the threshold."""

    @staticmethod
    @override
    def forward(ctx: Any, *args: Any) -> Tensor:
        seen, bar, bandwidth = cast("tuple[Tensor, Tensor, float]", args)
        ctx.save_for_backward(seen, bar)
        ctx.bandwidth = bandwidth
        return (seen > bar).to(seen.dtype)

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        seen, bar = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        near = (seen - bar).abs() < ctx.bandwidth / 2
        return None, -cast("Tensor", grads[0]) * near / ctx.bandwidth, None


jump = cast("Callable[[Tensor, Tensor, float], Tensor]", _Jump.apply)
step = cast("Callable[[Tensor, Tensor, float], Tensor]", _Step.apply)


def all_preactivations(weights: Weights, inputs: Float[Tensor, "token d_model"]) -> Float[Tensor, "token feature"]:
    """Pre-activations of centred tokens, without gradient."""
    with torch.no_grad():
        return torch.addmm(weights.encoder_bias, inputs, weights.encoder.T)


def chosen_places(
    seen: Float[Tensor, "token feature"], threshold: Float[Tensor, " gate"], settings: SaeSettings
) -> Places:
    """The features that a batch may use; for JumpReLU also those just below their threshold, which teach it."""
    with torch.no_grad():
        match settings.architecture:
            case "topk":
                return top_k_places(seen, settings.k)
            case "jumprelu":
                return places_above(seen, threshold - settings.bandwidth / 2)
            case "batchtopk" | "matryoshka":
                return places_above(seen, batch_threshold(seen, settings.k))


def prefix_sizes(settings: SaeSettings) -> tuple[int, ...]:
    """How many features the nested reconstructions use, the last of them all."""
    shares = settings.prefixes if settings.architecture == "matryoshka" else (1.0,)
    return tuple(sorted({max(1, round(share * settings.features)) for share in shares}))


def step_loss(
    weights: Weights,
    tokens: Float[Tensor, "token d_model"],
    settings: SaeSettings,
    *,
    variance: float,
    dead: Bool[Tensor, " feature"],
) -> StepLoss:
    """The loss of a batch.

    Args:
        weights: What is trained.
        tokens: Scaled tokens.
        settings: Architecture and its weights.
        variance: Mean squared distance of a token from the mean token.
        dead: Features to revive.
    """
    with torch.no_grad():
        inputs = tokens - weights.decoder_bias
    seen = all_preactivations(weights, inputs)
    places = chosen_places(seen, weights.threshold, settings)
    found = preactivations_at(places, seen, inputs, weights.encoder, weights.encoder_bias, weights.decoder_bias)
    penalty = torch.zeros((), device=tokens.device)
    if settings.architecture == "jumprelu":
        bar = weights.threshold.index_select(0, places.features)
        active = jump(found, bar, settings.bandwidth)
        l0 = step(found, bar, settings.bandwidth).sum() / len(tokens)
        penalty = settings.l0_weight * (l0 / settings.k - 1).square()
    else:
        active = found.relu()
        l0 = (active > 0).sum() / len(tokens)
    rebuilt = _prefix_reconstructions(weights, places, active, prefix_sizes(settings))
    errors = (tokens[:, None] - rebuilt).square().sum(2).mean(0) / variance
    loss = errors.mean() + penalty
    if settings.auxiliary > 0 and bool(dead.any()):
        error = (tokens - rebuilt[:, -1]).detach()
        loss = loss + settings.auxiliary * auxiliary_loss(
            weights, tokens, error, dead, settings.auxiliary_k or settings.k
        )
    fired = torch.zeros_like(dead).index_fill(0, places.features[active > 0], True)
    return StepLoss(loss=loss, fvu=errors[-1].detach(), l0=l0.detach(), fired=fired)


def _prefix_reconstructions(
    weights: Weights, places: Places, active: Float[Tensor, " place"], sizes: tuple[int, ...]
) -> Float[Tensor, "token prefix d_model"]:
    """What each nested prefix of the features rebuilds."""
    if len(sizes) == 1:
        return (decode_at(places, active, weights.decoder) + weights.decoder_bias)[:, None]
    edges = torch.tensor(sizes[:-1], device=active.device)
    parts = places.regrouped(torch.bucketize(places.features, edges, right=True), len(sizes))
    added = decode_at(parts, active, weights.decoder).view(-1, len(sizes), weights.decoder.shape[1])
    return added.cumsum(1) + weights.decoder_bias


def auxiliary_loss(
    weights: Weights,
    tokens: Float[Tensor, "token d_model"],
    error: Float[Tensor, "token d_model"],
    dead: Bool[Tensor, " feature"],
    most: int,
) -> Float[Tensor, ""]:
    """AuxK: share of the error that the dead features with the highest pre-activations leave.

    Args:
        weights: What is trained.
        tokens: Scaled tokens.
        error: What the other features leave, without gradient.
        dead: Features to revive.
        most: How many of them on a token.
    """
    numbers = dead.nonzero().flatten()
    k = min(most, len(numbers))
    seen = (tokens - weights.decoder_bias) @ weights.encoder[numbers].T + weights.encoder_bias[numbers]
    highest = seen.topk(k, dim=1, sorted=False)
    active = torch.zeros_like(seen).scatter(1, highest.indices, highest.values)
    left = (error - active @ weights.decoder[numbers]).square().sum()
    return left / error.square().sum().clamp_min(torch.finfo(error.dtype).tiny)
