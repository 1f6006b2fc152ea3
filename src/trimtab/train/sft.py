"""Supervised fine-tuning of one student with controls attached: killed at any point, the same call goes on."""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from transformers import PreTrainedTokenizerBase

from trimtab.data.batches import pad_id
from trimtab.data.template import encode_rows, training_rows
from trimtab.errors import DataError, StorageError
from trimtab.model.host import Host
from trimtab.model.sites import unwrap
from trimtab.records.config import TrainSettings
from trimtab.records.io import load, save, storage_error
from trimtab.records.rows import ChatRow, Fit, Rows
from trimtab.records.training import IGNORED, Encoded, TrainingRow
from trimtab.roles import Control
from trimtab.train.checkpoints import (
    Checkpoint,
    file_hash,
    link_or_copy,
    matches,
    newest_complete,
    remove_all_but,
)
from trimtab.train.manifest import library_versions
from trimtab.train.metrics import Journal, MetricLine, read_metrics, trim_metrics
from trimtab.train.order import row_order
from trimtab.train.runs import claim, locked, refuse_several_processes
from trimtab.train.student import make_student
from trimtab.train.threads import fixed_threads, training_threads
from trimtab.train.trainer import Schedule, StudentTrainer, TrainProgress, training_arguments

DONE: Final = "done.json"
METRICS: Final = "metrics.jsonl"
_PUBLISHED: Final = ("*.safetensors", "*.safetensors.index.json", "*config.json")
_PATIENCE: Final = 5.0
"""Seconds to wait for a folder: workers of a killed run need a moment to notice."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a student is trained on, after every control has had its say.

    Attributes:
        rows: Tokenised conversations, each with at least one learned token.
        dropped: Rows left out because a control took every token out of their loss.
    """

    rows: tuple[Encoded, ...]
    dropped: int

    @property
    def learned_tokens(self) -> int:
        """Tokens with a loss, in one pass over the rows."""
        return sum(_learned(row) for row in self.rows)

    @property
    def hash(self) -> str:
        """SHA-256 of the tokens and labels, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            for values in (row.input_ids, row.labels):
                digest.update(np.asarray((len(values), *values), dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Done:
    """Content of ``done.json``: this student is trained.

    Attributes:
        steps: Optimiser steps taken.
        seconds: Training time over all resumptions.
        rows: Rows trained on.
        dropped: Rows without a learned token.
        learned_tokens: Tokens with a loss in one pass over the rows.
        files: SHA-256 of weights and configuration.
    """

    steps: int
    seconds: float
    rows: int
    dropped: int
    learned_tokens: int
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained student.

    Attributes:
        folder: Where it lies; ``student.load_student`` loads it.
        steps: Optimiser steps taken.
        seconds: Training time over all resumptions.
        final_loss: Loss of the last line of metrics, nats per learned token.
        curve: Every line of metrics.
        rows: Rows trained on.
        dropped: Rows left out because a control took every token out of their loss.
        learned_tokens: Tokens with a loss in one pass over the rows.
    """

    folder: Path
    steps: int
    seconds: float
    final_loss: float
    curve: tuple[MetricLine, ...]
    rows: int
    dropped: int
    learned_tokens: int


def prepare_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Rows[ChatRow, Fit], controls: Sequence[Control], *, max_length: int
) -> Prepared:
    """Rewrite, tokenise and relabel rows as the controls say, each control in its turn.

    Args:
        tokenizer: The host's.
        rows: The user's rows.
        controls: Controls; the first one sees the user's rows.
        max_length: Longest conversation in tokens.

    Raises:
        ModelError: If the tokenizer has no chat template.
        DataError: If rows cannot be tokenised (lists every one), or none has a token to learn.
    """
    rewritten: Sequence[TrainingRow] = training_rows(rows)
    for control in controls:
        rewritten = control.rewrite(rewritten)
    encoded = encode_rows(tokenizer, rewritten, max_length=max_length, file=rows.source, lines=rows.lines)
    for control in controls:
        encoded = tuple(control.relabel(row) for row in encoded)
    kept = tuple(row for row in encoded if _learned(row))
    if not kept:
        names = ", ".join(control.name for control in controls) or "no control"
        raise DataError(
            f"{rows.source}: none of {len(rows)} rows has a token left to learn (controls: {names})",
            allowed="at least one row with a learned token",
            todo="add rows, or weaken the control that filters rows or masks tokens",
        )
    return Prepared(rows=kept, dropped=len(encoded) - len(kept))


def train_student(
    host: Host,
    rows: Rows[ChatRow, Fit],
    controls: Sequence[Control],
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a fresh copy of ``host``, or go on where the same call was stopped.

    Stopped by Ctrl-C, ``kill -9`` or a full disk, the same call resumes from the newest complete checkpoint and ends,
    on a CPU, with the same bits as if it had never been stopped. A finished student is not trained again.

    Args:
        host: The frozen reference; it is copied, never touched.
        rows: Rows to train on.
        controls: Controls, applied in this order; attached only while training.
        settings: How to train.
        seed: Fixes the order of rows, LoRA's start values and dropout.
        folder: The student's own folder.
        identity: What else made the controls (options, hashes of ledger and bank): a resumed folder must agree.
        progress: Called after every step.

    Raises:
        DataError: If rows cannot be tokenised or none has a token to learn.
        TrainingError: If the loss, the gradient or a weight is not finite; checkpoints stay.
        StorageError: If the folder cannot be written, is in use, is damaged, or was made by another call.
        UsageError: If started as one of several processes.
    """
    refuse_several_processes()
    prepared = prepare_rows(host.tokenizer, rows, controls, max_length=settings.max_length)
    whole_identity = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "model": host.content_hash,
        "rows": prepared.hash,
        "controls": [control.name for control in controls],
        "material": dict(identity or {}),
    }
    threads = training_threads(host.model)
    with fixed_threads(threads), locked(folder, patience=_PATIENCE):
        manifest = claim(folder, whole_identity, threads=threads)
        if (folder / DONE).exists():
            return _finished(folder)
        checkpoint = newest_complete(folder)
        if checkpoint is not None and manifest.versions != library_versions():
            _log.warning("%s resumes with other library versions: weights may differ in their last bits", folder)
        remove_all_but(folder, checkpoint)
        trim_metrics(folder / METRICS, 0 if checkpoint is None else checkpoint.step)
        if checkpoint is None or checkpoint.step < settings.max_steps:
            _fit(host, prepared, controls, settings, seed=seed, folder=folder, start=checkpoint, progress=progress)
            if host.device.type != "cpu":
                gc.collect()  # a Trainer is a circle of references; its weights must go before the next student comes
        _publish(folder, prepared, host.tokenizer)
        return _finished(folder)


def _fit(
    host: Host,
    prepared: Prepared,
    controls: Sequence[Control],
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    start: Checkpoint | None,
    progress: Callable[[TrainProgress], None] | None,
) -> None:
    """Train from ``start`` to the last step; the last checkpoint then holds the trained weights."""
    order = row_order(
        [len(row.input_ids) for row in prepared.rows],
        steps=settings.max_steps,
        batch_size=settings.per_device_train_batch_size,
        seed=seed,
    )
    journal = Journal(path=folder / METRICS)
    if start is not None:
        journal.total, journal.steps = start.complete.loss_total, start.complete.loss_steps
        journal.earlier_seconds = start.complete.seconds
    student = make_student(host, settings, seed=seed)
    trainer = StudentTrainer(
        student,
        training_arguments(settings, folder=folder, seed=seed, on_cpu=host.device.type == "cpu"),
        schedule=Schedule(prepared.rows, order),
        pad_id=pad_id(host.tokenizer),
        journal=journal,
        progress=progress,
    )
    with ExitStack() as attached:
        for control in controls:
            attached.enter_context(control.attach(unwrap(student)))
        trainer.train(resume_from_checkpoint=None if start is None else str(start.folder))


def _publish(folder: Path, prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> None:
    """Put the last checkpoint's weights in the conventional place, then say so, then let the checkpoints go.

    The weights are not written a second time but linked: a kill in between leaves the checkpoint as it was.
    """
    last = newest_complete(folder)
    if last is None:
        raise StorageError(
            f"{folder}: the last checkpoint is damaged",
            allowed="a disk that gives back what was written",
            todo="check the disk, then run the same command again: it resumes",
        )
    published = sorted({path for pattern in _PUBLISHED for path in last.folder.glob(pattern)})
    try:
        for path in published:
            link_or_copy(path, folder / path.name)
        tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    done = Done(
        steps=last.step,
        seconds=last.complete.seconds,
        rows=len(prepared.rows),
        dropped=prepared.dropped,
        learned_tokens=prepared.learned_tokens,
        files={path.name: file_hash(folder / path.name) for path in published},
    )
    save(done, folder / DONE)
    remove_all_but(folder, None)


def _finished(folder: Path) -> TrainResult:
    done = load(Done, folder / DONE)
    if not matches(folder, done.files):
        raise StorageError(
            f"the weights in {folder} are not those that training wrote",
            allowed=f"files with the hashes that {DONE} names",
            todo="remove this student's folder and run the same command again to train it anew",
        )
    remove_all_but(folder, None)
    curve = read_metrics(folder / METRICS)
    if not curve:
        raise StorageError(
            f"{folder / METRICS} is missing or empty",
            allowed="the metrics that training wrote",
            todo="remove this student's folder and run the same command again to train it anew",
        )
    return TrainResult(
        folder=folder,
        steps=done.steps,
        seconds=done.seconds,
        final_loss=curve[-1].loss,
        curve=curve,
        rows=done.rows,
        dropped=done.dropped,
        learned_tokens=done.learned_tokens,
    )


def _learned(row: Encoded) -> int:
    """Learned tokens; the first token of a row is never predicted."""
    return sum(label != IGNORED for label in row.labels[1:])
