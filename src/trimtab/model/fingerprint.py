"""A name for the contents of a model, so that a lens is never laid on other weights than it was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

_FUNCTIONAL: Final = (
    "model_type",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "sliding_window",
    "layer_types",
    "use_parallel_residual",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
)
"""Settings that change what the weights compute and that their shapes do not show. The rest of a configuration
(paths, library versions, token ids, new keys of new library versions) is left out, so that the hash outlives them."""


def content_hash(model: PreTrainedModel) -> str:
    """SHA-256 over the functional settings and every weight: name, shape and values as float32.

    Values are hashed as float32, so a bfloat16 checkpoint has one hash whether it is loaded as
    bfloat16 or float32. Tied weights count once. Memory: one float32 copy of a tensor per worker thread.
    """
    config = model.config.get_text_config(decoder=True)
    settings = {key: getattr(config, key) for key in _FUNCTIONAL if getattr(config, key, None) is not None}
    total = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    with ThreadPoolExecutor(max_workers=4) as pool:
        for digest in pool.map(_digest, _weights(model)):
            total.update(digest)
    return total.hexdigest()


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and saved buffers by name; a tensor with two names comes once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()


def _digest(named: tuple[str, Tensor]) -> bytes:
    name, tensor = named
    values = tensor.to(device="cpu", dtype=torch.float32).flatten().numpy()
    digest = hashlib.sha256(f"{name} {tuple(tensor.shape)}".encode())
    digest.update(values.data)
    return digest.digest()
