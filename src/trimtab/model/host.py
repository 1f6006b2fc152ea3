"""The host: the model before training, frozen for good (DESIGN, principle 2)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from trimtab.model.base import HasModel, LanguageModel
from trimtab.model.load import Device, Dtype, load_model

__all__ = ["HasModel", "Host", "LanguageModel"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Host(LanguageModel):
    """A frozen reference model: no parameter requires a gradient and dropout is off.

    Making a ``Host`` freezes the model that it is given. A host is never handed to a trainer; ``student`` is.
    """

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        nn.Module.eval(self.model)

    @staticmethod
    def load(
        name_or_path: str,
        *,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: Device | None = None,
        self_check: bool = True,
    ) -> Host:
        """Load a frozen host; arguments and errors are those of ``load.load_model``."""
        loaded = load_model(name_or_path, revision=revision, dtype=dtype, device=device, self_check=self_check)
        return Host(model=loaded.model, tokenizer=loaded.tokenizer, name=loaded.name, content_hash=loaded.content_hash)

    def student(self) -> PreTrainedModel:
        """A trainable deep copy with the same weights: every parameter requires a gradient, train mode off."""
        student = copy.deepcopy(self.model)
        student.requires_grad_(True)
        nn.Module.eval(student)
        return student
