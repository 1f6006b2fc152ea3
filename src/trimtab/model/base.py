"""A model with its tokenizer, and the narrow Protocol that the rest of this package asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimtab.model.sites import n_layers


@runtime_checkable
class HasModel(Protocol):
    """Anything that carries a model and its tokenizer: a ``LanguageModel``, a ``Host``, or a pair of your own."""

    @property
    def model(self) -> PreTrainedModel:
        """The causal language model."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A causal language model with its tokenizer; compared by identity.

    Attributes:
        model: The model. Pass a PEFT-wrapped model through ``sites.unwrap``, which keeps the adapter in place.
        tokenizer: Its tokenizer.
        name: Hugging Face id, folder, or ``lab``.
        content_hash: ``fingerprint.content_hash`` of the weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    content_hash: str

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return n_layers(self.model)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device
