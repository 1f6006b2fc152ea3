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
from trimtab.train import sft, trainer
from trimtab.train.checkpoints import Checkpoint
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


def arm(job: tuple[str, int], report: Callable[[TrainProgress], None]) -> float:
    """A worker's job."""
    folder, seed = job
    return train(Path(folder), seed=seed, max_steps=4, progress=report).final_loss


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


def train_to_step(folder: Path, step: int) -> None:
    train(folder, progress=kill_at_step(step))


def die_in_save(folder: Path, step: int, name: str) -> None:
    """Die while a file of ``checkpoint-STEP`` is half written."""
    original = torch.save

    def save(value: object, path: str) -> None:
        if path.endswith(f"checkpoint-{step}/{name}"):
            half_written_then_killed(Path(path))
        original(value, path)

    torch.save = save
    train(folder)


def die_before_marker(folder: Path, step: int) -> None:
    """Die when ``checkpoint-STEP`` is written but not yet marked complete."""

    original = trainer.mark_complete

    def mark(written: Path, *, step: int, seconds: float, loss_total: float, loss_steps: int) -> None:
        if step == dying_step:
            kill()
        original(written, step=step, seconds=seconds, loss_total=loss_total, loss_steps=loss_steps)

    dying_step, trainer.mark_complete = step, mark
    train(folder)


def die_in_publish(folder: Path, stage: str) -> None:
    """Die while the trained weights are put in place."""
    if stage == "weights":
        original = sft.link_or_copy

        def place(source: Path, target: Path) -> None:
            if target.name.endswith(".safetensors"):
                half_written_then_killed(target)
            original(source, target)

        sft.link_or_copy = place
    elif stage == "done":

        def write(record: object, path: Path) -> None:
            kill()

        sft.save = write
    else:

        def clean(arm: Path, kept: Checkpoint | None) -> None:
            if (arm / sft.DONE).exists():
                kill()

        sft.remove_all_but = clean
    train(folder)
