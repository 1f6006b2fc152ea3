"""Where a site lies in a given architecture. Everything else in the package speaks of sites only.

``resid_post`` is what a decoder layer returns; ``attn_out`` and ``mlp_out`` are what the two blocks *add to the
residual stream*, so behind the post-norms of Gemma and OLMo and behind the output dropout of GPT-NeoX. Layers are
recognised by the names of their parts, not by model type, and the self-check proves the result on the model at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final, cast

from torch import nn
from transformers import PreTrainedModel

from trimtab.errors import ModelError, UsageError
from trimtab.records.site import Site, Stream

_PARTS: Final[dict[Stream, tuple[str, ...]]] = {
    "resid_post": (),
    "attn_out": (
        "post_attention_dropout",  # GPT-NeoX
        "resid_attn_dropout",  # Phi-3
        "post_self_attn_layernorm",  # GLM-4
        "self_attn",
        "attn",
        "attention",
        "self_attention",
    ),
    "mlp_out": (
        "post_mlp_dropout",  # GPT-NeoX
        "resid_mlp_dropout",  # Phi-3
        "post_mlp_layernorm",  # GLM-4
        "mlp",
        "feed_forward",
        "block_sparse_moe",
    ),
}
"""Names of the module whose output a block adds, most specific first."""

_POST_NORMS: Final[dict[Stream, str]] = {
    "attn_out": "post_attention_layernorm",
    "mlp_out": "post_feedforward_layernorm",
}
"""Gemma 2 and 3, OLMo 2: the norm behind each block, told by the presence of ``post_feedforward_layernorm``."""


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside PEFT, DDP or ``torch.compile`` wrappers; adapters stay in place and active.

    Raises:
        ModelError: If there is none.
    """
    inner: object = model
    while not isinstance(inner, PreTrainedModel):
        get_base = getattr(inner, "get_base_model", None)
        if callable(get_base):
            inner = cast("Callable[[], object]", get_base)()
            continue
        inner = getattr(inner, "module", None) or getattr(inner, "_orig_mod", None)
        if inner is None:
            raise ModelError(
                f"a {type(model).__name__}",
                allowed="a transformers PreTrainedModel, or one wrapped by PEFT, DDP or torch.compile",
                todo="pass the model that AutoModelForCausalLM returns",
            )
    return inner


def _stack(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that runs the decoder layers, and the layers."""
    base = unwrap(model)
    depth = int(base.config.get_text_config(decoder=True).num_hidden_layers)
    start = cast("Callable[[], nn.Module]", base.get_decoder)()
    for owner in (*start.modules(), *base.modules()):
        for child in owner.children():
            blocks = isinstance(child, nn.ModuleList) and len(child) == depth
            if blocks and all(any(True for _ in layer.children()) for layer in child.children()):
                return owner, cast("nn.ModuleList", child)
    raise ModelError(
        f"{type(base).__name__} has no list of {depth} decoder layers",
        allowed="decoder-only transformers whose layers are a ModuleList of config.num_hidden_layers entries",
        todo="open an issue that names the model",
    )


def decoder(model: nn.Module) -> nn.Module:
    """The module that runs the decoder layers and the final norm, without the language-model head."""
    return _stack(model)[0]


def layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, first to last."""
    return _stack(model)[1]


def n_layers(model: nn.Module) -> int:
    """Number of decoder layers."""
    return len(layers(model))


def check_site(model: nn.Module, site: Site) -> None:
    """Check that the model has the site.

    Raises:
        UsageError: If the layer is out of range (says the range) or the architecture does not offer the stream.
    """
    module_for(model, site)


def module_for(model: nn.Module, site: Site) -> nn.Module:
    """The module whose output (or first output) is the activation at ``site``.

    Raises:
        UsageError: If the layer is out of range (says the range) or the architecture does not offer the stream.
    """
    found = layers(model)
    if not 0 <= site.layer < len(found):
        raise UsageError(
            f"layer {site.layer} (site {site})",
            allowed=f"layers 0 to {len(found) - 1} of this {type(unwrap(model)).__name__}",
            todo=f"choose a layer in that range; {len(found) // 2} is the middle one",
        )
    layer = found[site.layer]
    if site.stream == "resid_post":
        return layer
    part = _part(layer, site.stream)
    if part is None:
        raise UsageError(
            f"site {site}: what a {type(layer).__name__} adds as {site.stream} is not the output of one of its parts",
            allowed="resid_post",
            todo=f'use "{site.layer}.resid_post"',
        )
    return part


def _part(layer: nn.Module, stream: Stream) -> nn.Module | None:
    """The part of a layer whose output is added to the residual stream as it is; ``None`` where there is none."""
    if getattr(layer, "residual_multiplier", 1) != 1:  # Granite scales what it adds
        return None
    names = _PARTS[stream]
    if hasattr(layer, _POST_NORMS["mlp_out"]):
        names = (_POST_NORMS[stream],)
    for name in names:
        part = getattr(layer, name, None)
        if isinstance(part, nn.Module):
            adds_itself = "residual" in inspect.signature(part.forward).parameters  # BLOOM, MPT: sum inside the block
            return None if adds_itself else part
    return None
