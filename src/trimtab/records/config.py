"""``run.yaml``: the whole configuration of a run, one field to one setting, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trimtab.errors import UsageError
from trimtab.records.io import write_bytes


class Settings(BaseModel):
    """Base of all configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainSettings(Settings):
    """How a student is trained; the names are those of Hugging Face's ``TrainingArguments`` where one exists."""

    method: Literal["full", "lora"] = Field(default="lora", description="full weights, or a LoRA adapter through PEFT")
    max_steps: int = Field(default=300, gt=0, description="optimiser steps")
    per_device_train_batch_size: int = Field(default=16, gt=0, description="conversations in a step")
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(default=10, ge=0, description="linear warm-up, in steps")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient clipping")
    lora_r: int = Field(default=16, gt=0, description="LoRA rank")
    lora_alpha: int = Field(default=32, gt=0, description="LoRA scale is lora_alpha / lora_r")
    max_length: int = Field(default=512, gt=0, description="longest conversation in tokens; longer ones are an error")
    save_steps: int = Field(default=50, gt=0, description="steps between checkpoints that a killed run resumes from")
    logging_steps: int = Field(default=10, gt=0, description="steps between lines of metrics.jsonl")
    bf16: bool = Field(default=False, description="bf16 autocast")


class ControlSettings(Settings):
    """One control set: one or more controls by name, with their options."""

    name: str = Field(description="a name from `trimtab controls`, or `a+b` to compose two")
    options: dict[str, float | int | str | bool | list[str]] = Field(
        default_factory=dict, description="options of that control, e.g. strength"
    )
    label: str | None = Field(default=None, description="what tables call it; default: its name")

    @property
    def title(self) -> str:
        """What tables call it: unique in a run."""
        return self.label or self.name


class RunSettings(Settings):
    """A whole run. ``trimtab run --model … --data … --spec …`` writes one; ``trimtab train run.yaml`` reads one."""

    model: str = Field(description="`lab`, a Hugging Face id, or a folder")
    revision: str | None = Field(default=None, description="git revision of a Hugging Face id; pin it")
    data: str = Field(description="rows to train on: JSONL, JSON, CSV, Parquet or a `datasets` folder")
    spec: str = Field(description="spec file, Markdown or YAML")
    bank: str | None = Field(default=None, description="concept bank folder; the lab model brings its own")
    held_out: str | None = Field(
        default=None, description="file of held-out rows; default: a share of `data` is set aside"
    )
    held_out_share: float = Field(default=0.2, gt=0, lt=1, description="share set aside where `held_out` is not given")
    controls: tuple[ControlSettings, ...] | Literal["auto"] = Field(
        default="auto", description="control sets to compare"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(0, 1, 2), min_length=1, description="one student per control set and seed"
    )
    train: TrainSettings = Field(default_factory=TrainSettings, description="how students are trained")
    jobs: int = Field(default=1, gt=0, description="students trained side by side (CPU: one thread each)")
    skip_bad_rows: bool = Field(
        default=False, description="skip malformed rows, listing them, instead of refusing the file"
    )

    @field_validator("controls")
    @classmethod
    def _unique(cls, value: tuple[ControlSettings, ...] | str) -> tuple[ControlSettings, ...] | str:
        titles = [] if isinstance(value, str) else [settings.title for settings in value]
        repeated = sorted({title for title in titles if titles.count(title) > 1} | ({"host"} & set(titles)))
        if repeated:
            raise ValueError(f"{', '.join(repeated)}: give each control set a label of its own (`host` is taken)")
        return value

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a seed stands twice; each gives one student per control set")
        return value


def read_settings(path: Path) -> RunSettings:
    """Read ``run.yaml``.

    Raises:
        UsageError: If the file is missing, is not YAML, or has a key or value that is not allowed.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", allowed="a YAML file of run settings", todo="see docs/reference/run-yaml.md"
        ) from error
    return parse_settings(data, source=str(path))


def parse_settings(data: object, *, source: str) -> RunSettings:
    """Validate settings that came from YAML or from the command line.

    Raises:
        UsageError: Names every key that is wrong.
    """
    try:
        return RunSettings.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise UsageError(
            f"{source}: {faults}",
            allowed="keys: " + ", ".join(RunSettings.model_fields),
            todo="correct the named keys; docs/reference/run-yaml.md lists each with its meaning",
        ) from error


def write_settings(settings: RunSettings, path: Path) -> None:
    """Write ``run.yaml``, atomically."""
    readable = "\x85" not in settings.model_dump_json()  # written plainly, YAML would read this one as a line break
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=readable)
    write_bytes(path, text.encode())
