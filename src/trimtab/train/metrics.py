"""``metrics.jsonl``: one line per logged step, also when a run was killed and resumed in between."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from trimtab.errors import StorageError
from trimtab.records.io import append_line, write_bytes


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """One logged step.

    Attributes:
        step: Optimiser steps taken.
        loss: Mean loss per learned token in nats, mean over the steps since the last line.
        learning_rate: Of the last of those steps.
        grad_norm: Norm of its gradient before clipping.
        seconds: Training time so far, over all resumptions.
        terms: What else was measured, mean over the steps since the last line: parts of a reward, KL, entropy.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    terms: dict[str, float] = field(default_factory=dict[str, float])


_LINE = TypeAdapter(MetricLine)


@dataclass(kw_only=True)
class Journal:
    """What is summed up between two lines; a checkpoint keeps it, so that a resumed run writes the same lines.

    Attributes:
        path: The ``metrics.jsonl``.
        total: Sum of losses since the last line (a tensor while it is on the device: no step waits for it).
        steps: Number of those losses.
        earlier_seconds: Training time before this process.
        last_loss: Loss of the last line, if any.
    """

    path: Path
    total: float | Tensor = 0.0
    steps: int = 0
    earlier_seconds: float = 0.0
    last_loss: float | None = None
    _started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Training time so far."""
        return self.earlier_seconds + time.monotonic() - self._started

    def add(self, loss: Tensor) -> None:
        """Count the loss of one step (a scalar)."""
        self.total = self.total + loss
        self.steps += 1

    def mean(self) -> float:
        """Mean loss since the last line; waits for the device."""
        return float(self.total) / max(1, self.steps)

    def write(
        self, *, step: int, learning_rate: float, grad_norm: float, terms: Mapping[str, float] | None = None
    ) -> None:
        """Write a line and begin the next sum.

        Raises:
            StorageError: If the file cannot be written.
        """
        self.last_loss = self.mean()
        line = MetricLine(
            step=step,
            loss=self.last_loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            seconds=round(self.seconds, 3),
            terms=dict(terms or {}),
        )
        append_line(self.path, _LINE.dump_json(line))
        self.total, self.steps = 0.0, 0


def read_metrics(path: Path) -> tuple[MetricLine, ...]:
    """Every line; a last line that a crash cut off is left out, a missing file has none.

    Raises:
        StorageError: If any other line is not a metric line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    found: list[MetricLine] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_LINE.validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                break
            raise StorageError(
                f"{path}:{number} is not a line of metrics",
                allowed="lines written by trimtab",
                todo="remove this student's folder and run the same command again",
            ) from error
    return tuple(found)


def trim_metrics(path: Path, step: int) -> None:
    """Remove lines later than ``step``: a run that resumes there writes them again.

    Raises:
        StorageError: If the file cannot be written or is damaged.
    """
    if path.exists():
        kept = [_LINE.dump_json(line) + b"\n" for line in read_metrics(path) if line.step <= step]
        write_bytes(path, b"".join(kept))
