"""Every hook proves itself on the model at hand (DESIGN, principle 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.errors import SelfCheckError, UsageError
from trimtab.model.base import HasModel
from trimtab.model.capture import evaluating
from trimtab.model.hooks import ReadHook, WriteHook, reading, writing
from trimtab.model.sites import check_site, decoder, layers, n_layers, unwrap
from trimtab.records.site import Site, Stream

_TOKENS: Final = 8
_ULPS: Final = 8
_STREAMS: Final[tuple[Stream, ...]] = ("resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """What was proven.

    Attributes:
        streams: Streams that the architecture offers.
        layers_read: Layers at which a read of ``resid_post`` equalled ``hidden_states`` bit for bit.
        sites_written: Sites at which a write moved the logits, from its token on only, and came off clean.
        additive_error: Largest ``|input + attn_out + mlp_out - resid_post|`` over all layers, as a share of the largest
            term; ``None`` where the architecture does not offer both streams.
    """

    streams: tuple[Stream, ...]
    layers_read: int
    sites_written: tuple[Site, ...]
    additive_error: float | None


def self_check(lm: HasModel) -> SelfCheck:
    """Prove on eight tokens that hooks read, write and come off as they claim.

    1. What is read at ``resid_post`` equals ``hidden_states``, bit for bit, at every layer (behind the last one
       Hugging Face reports the *normed* state: the final norm of what was read must equal that).
    2. Where both block streams are offered: input + ``attn_out`` + ``mlp_out`` = ``resid_post``, at every layer.
    3. At the first, middle and last layer: a write at the last token moves the logits there and nowhere before; a
       write that changes nothing, and removal, give the untouched logits bit for bit.

    Raises:
        SelfCheckError: Names the check, the site and what was found.
    """
    model = lm.model
    streams: tuple[Stream, ...] = tuple(stream for stream in _STREAMS if _offers(model, stream))
    ids = torch.arange(1, _TOKENS + 1, device=model.device).unsqueeze(0) % model.config.get_text_config().vocab_size
    with torch.no_grad(), evaluating(model):
        depth = _check_reads(model, ids)
        both = "attn_out" in streams and "mlp_out" in streams
        error = _check_sum(model, ids) if both else None
        depths = sorted({0, depth // 2, depth - 1})
        written = tuple(Site(layer, stream) for layer in depths for stream in streams)
        _check_writes(model, ids, written)
    return SelfCheck(streams=streams, layers_read=depth, sites_written=written, additive_error=error)


def _offers(model: nn.Module, stream: Stream) -> bool:
    try:
        for layer in range(n_layers(model)):
            check_site(model, Site(layer, stream))
    except UsageError:
        return False
    return True


def _failed(model: nn.Module, what: str) -> SelfCheckError:
    return SelfCheckError(
        f"hook self-check on {type(unwrap(model)).__name__}: {what}",
        allowed="hooks that read hidden_states, move the logits and come off clean",
        todo="do not trust readings on this model; open an issue that names it and the transformers version",
    )


def _run(
    model: PreTrainedModel,
    ids: Int[Tensor, "batch token"],
    *,
    read: Mapping[Site, ReadHook] | None = None,
    write: Mapping[Site, WriteHook] | None = None,
) -> Float[Tensor, "batch token vocab"]:
    with writing(model, write or {}), reading(model, read or {}):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


class _Keep:
    """Read hook that keeps what it is given."""

    def __init__(self) -> None:
        self.found: dict[Site, Tensor] = {}

    def __call__(self, activation: Tensor, site: Site) -> None:
        self.found[site] = activation


def _check_reads(model: PreTrainedModel, ids: Tensor) -> int:
    depth = n_layers(model)
    keep = _Keep()
    with reading(model, {Site(layer): keep for layer in range(depth)}):
        reported = cast(
            "tuple[Tensor, ...]", model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        )
    if len(reported) != depth + 1 or len(keep.found) != depth:
        raise _failed(model, f"{len(keep.found)} of {depth} layers read, {len(reported)} hidden states reported")
    for layer in range(depth - 1):
        if not torch.equal(keep.found[Site(layer)], reported[layer + 1]):
            raise _failed(model, f"what is read at {Site(layer)} differs from hidden_states[{layer + 1}]")
    last = keep.found[Site(depth - 1)]
    norms = [part for part in decoder(model).children() if "norm" in type(part).__name__.lower()]
    if not any(torch.equal(state, reported[-1]) for state in (last, *(norm(last) for norm in norms))):
        raise _failed(model, f"the final norm of what is read at {Site(depth - 1)} differs from hidden_states[-1]")
    return depth


def _check_sum(model: PreTrainedModel, ids: Tensor) -> float:
    """Largest relative error of input + attn_out + mlp_out = resid_post."""
    keep = _Keep()
    inputs: list[Tensor] = []
    sites = [Site(layer, stream) for layer in range(n_layers(model)) for stream in _STREAMS]

    def keep_input(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        del module
        inputs.append(cast("Tensor", args[0] if args else kwargs["hidden_states"]))

    handles = [layer.register_forward_pre_hook(keep_input, with_kwargs=True) for layer in layers(model)]
    try:
        _run(model, ids, read=dict.fromkeys(sites, keep))
    finally:
        for handle in handles:
            handle.remove()
    worst = 0.0
    for layer, given in enumerate(inputs):
        attention, mlp, out = (keep.found[Site(layer, s)].float() for s in ("attn_out", "mlp_out", "resid_post"))
        scale = max(float(term.abs().max()) for term in (given, attention, mlp, out))
        error = float((given.float() + attention + mlp - out).abs().max()) / scale
        worst = max(worst, error)
        if not error <= _ULPS * torch.finfo(given.dtype).eps:
            raise _failed(model, f"layer {layer}: input + attn_out + mlp_out misses resid_post by {error:.2g} of it")
    return worst


def _check_writes(model: PreTrainedModel, ids: Tensor, sites: tuple[Site, ...]) -> None:
    untouched = _run(model, ids)
    for site in sites:
        if not torch.equal(_run(model, ids, write={site: _nothing}), untouched):
            raise _failed(model, f"a write at {site} that changes nothing changes the logits")
        moved = _run(model, ids, write={site: _push_last_token})
        if torch.equal(moved[:, -1], untouched[:, -1]):
            raise _failed(model, f"a write at {site} does not move the logits")
        if not torch.allclose(moved[:, :-1], untouched[:, :-1]):
            raise _failed(model, f"a write at {site}, last token, moves the logits of earlier tokens")
    if not torch.equal(_run(model, ids), untouched):
        raise _failed(model, "removing the hooks does not restore the logits bit for bit")


def _nothing(activation: Tensor, site: Site) -> Tensor:
    del site
    return activation.clone()


def _push_last_token(activation: Tensor, site: Site) -> Tensor:
    """Add a fixed wave, as large as the activation, to the last token."""
    del site
    width = activation.shape[-1]
    wave = torch.sin(torch.arange(width, device=activation.device, dtype=torch.float32))
    size = activation[:, -1].float().abs().mean() + 1e-2
    pushed = activation.clone()
    pushed[:, -1] += (wave * size).to(activation.dtype)
    return pushed
