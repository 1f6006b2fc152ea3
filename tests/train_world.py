"""A tiny world for tests of training: a random host, a few rows, settings of a dozen steps, and ways to be killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tiny_models import model, tokenizer
from trimtab.model.fingerprint import content_hash
from trimtab.model.hooks import writing
from trimtab.model.host import Host
from trimtab.records.config import TrainSettings
from trimtab.records.rows import ChatRow, Fit, Message, Rows
from trimtab.records.site import Site
from trimtab.records.training import Encoded, Surface, TrainingRow
from trimtab.train.sft import TrainResult, train_student
from trimtab.train.trainer import TrainProgress

STEPS = 11
SETTINGS = TrainSettings(
    method="lora",
    max_steps=STEPS,
    per_device_train_batch_size=3,
    learning_rate=1e-2,
    warmup_steps=2,
    lora_r=2,
    lora_alpha=4,
    max_length=64,
    save_steps=3,
    logging_steps=2,
)


def host(architecture: str = "llama", *, seed: int = 0, dropout: float = 0.0) -> Host:
    made = model(architecture, seed=seed, dropout=dropout)
    return Host(model=made, tokenizer=tokenizer(), name="tiny", content_hash=content_hash(made))


def rows(n: int = 7) -> Rows[ChatRow, Fit]:
    items = tuple(
        ChatRow(
            messages=[
                Message(role="user", content=f"What is {k} + 3?"),
                Message(role="assistant", content="It is " + "5" * (k + 1) + "."),
            ]
        )
        for k in range(n)
    )
    return Rows(items=items, split=Fit, source="tiny.jsonl", lines=tuple(range(1, n + 1)))


@dataclass(frozen=True, kw_only=True)
class Push:
    """A control with all three hands: adds a row, masks the first learned token, adds a vector to one layer."""

    name: str = "push"
    surface: Surface = "activations"
    fights_gradient: bool = False
    strength: float = 1.0

    def rewrite(self, given: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        added = TrainingRow(messages=given[0].messages, source=-1)
        return [*given, added]

    def relabel(self, encoded: Encoded) -> Encoded:
        first = next(place for place, label in enumerate(encoded.labels) if label != -100)
        labels = tuple(-100 if place == first else label for place, label in enumerate(encoded.labels))
        return Encoded(input_ids=encoded.input_ids, labels=labels, source=encoded.source)

    @contextmanager
    def attach(self, student: PreTrainedModel) -> Generator[None]:
        vector = torch.linspace(-1, 1, student.config.hidden_size)
        with writing(student, {Site(1): lambda activation, _: activation + self.strength * vector}):
            yield


def train(folder: Path, **changed: Any) -> TrainResult:  # noqa: ANN401
    """``train_student`` on the tiny world; ``method``, ``architecture`` and so on may be changed."""
    dropout = changed.pop("dropout", 0.0)
    given = changed.pop("host", None) or host(changed.pop("architecture", "llama"), dropout=dropout)
    data = changed.pop("rows", None) or rows()
    controls = changed.pop("controls", (Push(),))
    arguments = {name: changed.pop(name) for name in ("progress", "identity") if name in changed}
    seed = changed.pop("seed", 0)
    settings = SETTINGS.model_copy(update=changed)
    return train_student(given, data, controls, settings, seed=seed, folder=folder, **arguments)


def weights(folder: Path) -> dict[str, Tensor]:
    (path,) = folder.glob("*model.safetensors")
    return load_file(path)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def kill() -> None:
    """What ``kill -9`` does: nothing is flushed, no ``finally`` runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step: int) -> Callable[[TrainProgress], None]:
    def progress(now: TrainProgress) -> None:
        if now.step == step:
            kill()

    return progress


def half_written_then_killed(path: Path) -> None:
    """Leave a file as a kill in mid-write does."""
    path.write_bytes(b"\x80half")
    kill()
