"""Making a student from the host, and loading a trained one."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from trimtab.errors import StorageError, UsageError
from trimtab.model.fingerprint import content_hash
from trimtab.model.host import Host, LanguageModel
from trimtab.model.load import load_model
from trimtab.model.sites import layers
from trimtab.records.config import TrainSettings


def make_student(host: Host, settings: TrainSettings, *, seed: int) -> nn.Module:
    """A fresh student with the host's weights: the model itself, or wrapped by PEFT with a LoRA adapter.

    The adapter sits on every linear layer but the output head (QLoRA, arXiv 2305.14314), without dropout.

    Args:
        host: The frozen reference; it is copied, never touched.
        settings: Method, rank and scale.
        seed: Fixes the adapter's start values.
    """
    set_seed(seed)
    student = host.student()
    if settings.method == "full":
        return student
    with quiet_peft():
        return cast("nn.Module", get_peft_model(student, lora_config(student, settings)))


def check_frozen(model: nn.Module, count: int) -> None:
    """Refuse to freeze every layer.

    Raises:
        UsageError: If no layer would be left to learn.
    """
    found = len(layers(model))
    if count >= found:
        raise UsageError(
            f"freeze_layers {count} of a model with {found} layers",
            allowed=f"0 to {found - 1}",
            todo="freeze fewer layers",
        )


def freeze_first(student: PreTrainedModel, count: int) -> None:
    """Let only the decoder layers after the first ``count`` learn: no embeddings, no output head.

    Raises:
        UsageError: If no layer would be left to learn.
    """
    check_frozen(student, count)
    student.requires_grad_(False)
    for layer in layers(student)[count:]:
        layer.requires_grad_(True)


def lora_config(model: nn.Module, settings: TrainSettings) -> LoraConfig:
    """The adapter of ``make_student``."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )


def load_student(host: Host, folder: Path) -> LanguageModel:
    """Load a trained student from its folder; an adapter is merged into a copy of the host, so it runs as fast.

    Raises:
        StorageError: If the folder holds no trained student.
        ModelError: If its weights cannot be read.
    """
    if (folder / "adapter_config.json").is_file():
        with quiet_peft():
            wrapped = PeftModel.from_pretrained(host.student(), str(folder))
            merged = cast("PreTrainedModel", wrapped.merge_and_unload())
        merged.requires_grad_(False)
        merged.train(False)
        return LanguageModel(
            model=merged, tokenizer=host.tokenizer, name=str(folder), content_hash=content_hash(merged)
        )
    if (folder / "config.json").is_file():
        loaded = load_model(str(folder), device=host.device, self_check=False)
        loaded.model.requires_grad_(False)
        return loaded
    raise StorageError(
        f"{folder} holds no trained student",
        allowed="a folder with adapter_config.json, or config.json, and safetensors weights",
        todo="train it first: `trimtab train run.yaml` resumes where it was left",
    )


@contextmanager
def quiet_peft() -> Generator[None]:
    """Keep PEFT's use of a Transformers name that is on its way out from the user's screen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing", category=FutureWarning)
        yield
