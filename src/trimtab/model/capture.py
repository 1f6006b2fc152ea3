"""Activations, and gradients of the loss with respect to activations, at chosen sites.

Gradients with respect to weights are never computed: the floor of a forecast is a forward pass and the half of the
backward pass that carries gradients to activations, about two thirds of a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache

from trimtab.errors import UsageError
from trimtab.model.base import HasModel
from trimtab.model.hooks import reading, writing
from trimtab.model.sites import decoder, unwrap
from trimtab.records.site import Site
from trimtab.records.training import IGNORED


@dataclass(frozen=True, kw_only=True)
class GradCapture:
    """Activations and loss gradients of one batch, detached, in the model's dtype.

    Attributes:
        activations: ``h`` at each site, ``[batch, token, d_model]``.
        gradients: ``dL/dh`` at each site, same shape, where ``L`` is the *sum* of ``token_losses``.
        token_losses: ``-log p(token t | tokens before t)`` in nats at ``[batch, t]``, float32; zero where ``t`` is
            not learned. The prediction of token ``t`` is made at position ``t - 1``.
    """

    activations: Mapping[Site, Float[Tensor, "batch token d_model"]]
    gradients: Mapping[Site, Float[Tensor, "batch token d_model"]]
    token_losses: Float[Tensor, "batch token"]


@contextmanager
def evaluating(model: nn.Module, *, frozen: bool = False) -> Generator[None]:
    """Dropout (and gradient checkpointing) off for a while; with ``frozen`` also no gradients to weights."""
    training = [module for module in model.modules() if module.training]
    trainable = [weight for weight in model.parameters() if frozen and weight.requires_grad]
    for module in training:
        module.training = False
    for weight in trainable:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for weight in trainable:
            weight.requires_grad_(True)


def capture(
    lm: HasModel,
    input_ids: Int[Tensor, "batch token"],
    attention_mask: Int[Tensor, "batch token"],
    sites: Sequence[Site],
) -> dict[Site, Float[Tensor, "batch token d_model"]]:
    """Activations at ``sites`` in one forward pass without gradients and without the language-model head.

    The pass stops when the last site has been read. Activations at padding are what they are: mask them.

    Raises:
        UsageError: If the model lacks a site.
    """
    found: dict[Site, Tensor] = {}
    with reader(lm, sites) as read:
        read({"input_ids": input_ids, "attention_mask": attention_mask}, found.__setitem__)
    return {site: found[site] for site in sites}


Keep: TypeAlias = Callable[[Site, Float[Tensor, "batch token d_model"]], None]
"""Takes an activation as soon as it is there; it must not change it in place."""


class Run(Protocol):
    """One forward pass under ``reader``."""

    def __call__(
        self, inputs: Mapping[str, Int[Tensor, "batch token"]], keep: Keep, cache: Cache | None = None, /
    ) -> None:
        """Run on ``inputs``, handing activations to ``keep``."""
        ...


@contextmanager
def reader(lm: HasModel, sites: Sequence[Site]) -> Generator[Run]:
    """Hooks at ``sites`` for any number of forward passes, in which nothing is held for the caller.

    What is yielded runs one pass on keyword arguments of the decoder (``input_ids`` and, if wanted, ``attention_mask``
    and ``position_ids``), without gradients and without the language-model head, and hands each activation to ``Keep``,
    once per site. The pass stops when the last site has been read: layers above it do not run. A third argument holds
    keys and values of earlier tokens, which the pass goes on from and extends.

    Raises:
        UsageError: If the model lacks a site.
    """
    left: set[Site] = set()
    wanted: list[Keep] = []

    def take(activation: Tensor, site: Site) -> None:
        wanted[-1](site, activation)
        left.discard(site)
        if not left:
            raise _AllRead

    runs, device = decoder(lm.model), lm.model.device

    def run(inputs: Mapping[str, Tensor], keep: Keep, cache: Cache | None = None) -> None:
        left.update(sites)
        wanted[:] = [keep]
        passed: dict[str, object] = {name: tensor.to(device) for name, tensor in inputs.items()}
        if cache is not None:
            passed["past_key_values"] = cache
        with suppress(_AllRead):
            runs(**passed, use_cache=cache is not None)

    with torch.no_grad(), evaluating(lm.model), reading(lm.model, dict.fromkeys(sites, take)):
        yield run


class _AllRead(Exception):
    """Ends a forward pass from inside a hook."""


def activation_gradients(
    lm: HasModel,
    input_ids: Int[Tensor, "batch token"],
    attention_mask: Int[Tensor, "batch token"],
    labels: Int[Tensor, "batch token"],
    sites: Sequence[Site],
) -> GradCapture:
    """Gradient of the summed loss of the learned tokens with respect to the activations at ``sites``.

    The sum, not the mean: so a token's gradient does not depend on what else is in the batch. Layers below the first
    site run without an autograd graph, the head only where a token is learned, and weights get no gradients, also
    if they require them outside. Dropout is off.

    Args:
        lm: Model and tokenizer.
        input_ids: Token ids.
        attention_mask: 1 for tokens, 0 for padding.
        labels: ``input_ids`` where a token is learned, else ``IGNORED``; not shifted.
        sites: At least one site.

    Raises:
        UsageError: If no site is given, the model lacks one, or no token of the batch is learned.
    """
    if not sites or not bool((labels[:, 1:] != IGNORED).any()):
        raise UsageError(
            "no site" if not sites else "a batch in which no token is learned",
            allowed="at least one site, and at least one label other than the first token's",
            todo="pass a site such as 2.resid_post" if not sites else "leave such rows out, or correct their labels",
        )
    device = lm.model.device
    labels = labels.to(device)
    found: dict[Site, Tensor] = {}

    def start_graph(activation: Tensor, site: Site) -> Tensor:
        if not found or not activation.requires_grad:
            activation = activation.detach().requires_grad_()
        found[site] = activation
        return activation

    with torch.enable_grad(), evaluating(lm.model, frozen=True):
        with writing(lm.model, dict.fromkeys(sites, start_graph)):
            logits = logits_where_learned(lm.model, input_ids.to(device), attention_mask.to(device), labels)
        losses = functional.cross_entropy(logits.float(), labels[:, 1:][labels[:, 1:] != IGNORED], reduction="none")
        gradients = torch.autograd.grad(losses.sum(), [found[site] for site in sites])
    token_losses = torch.zeros(labels.shape, device=device)
    token_losses[:, 1:][labels[:, 1:] != IGNORED] = losses.detach()
    return GradCapture(
        activations={site: found[site].detach() for site in sites},
        gradients=dict(zip(sites, gradients, strict=True)),
        token_losses=token_losses,
    )


def logits_where_learned(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, cache: Cache | None = None
) -> Float[Tensor, "learned vocab"]:
    """Logits that predict the learned tokens, in row-major order.

    With a ``cache`` of earlier tokens, ``attention_mask`` covers those too.

    The head is made to see the hidden states at those positions only, by a hook in front of it; whatever the model
    does to logits afterwards (soft-capping, scaling) is done by the model itself.
    """
    base = unwrap(model)
    before_learned = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
    selected = False

    def select(module: nn.Module, args: tuple[object, ...]) -> tuple[object, ...] | None:
        nonlocal selected
        del module
        hidden = args[0] if args else None
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != before_learned.shape:
            return None
        selected = True
        return (hidden[before_learned].unsqueeze(0), *args[1:])

    head = cast("Callable[[], nn.Module | None]", base.get_output_embeddings)()
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        logits: Tensor = base(
            input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=cache is not None
        ).logits
    finally:
        if handle is not None:
            handle.remove()
    return logits[0] if selected else logits[before_learned]
