"""The Hugging Face ``Trainer`` with what it lacks: checkpoints that are whole, and a stop at the first bad loss."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging
from typing_extensions import override

from trimtab.data.batches import collate
from trimtab.errors import StorageError, TrainingError
from trimtab.records.config import TrainSettings
from trimtab.records.io import storage_error
from trimtab.records.training import Encoded
from trimtab.train.checkpoints import mark_complete, newest_complete, prune
from trimtab.train.metrics import Journal


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """How far a student is: for progress bars.

    Attributes:
        step: Optimiser steps taken.
        steps: Steps in all.
        loss: Last logged loss, if any.
    """

    step: int
    steps: int
    loss: float | None


class Saveable(Protocol):
    """What a Transformers model and a PEFT model have in common here."""

    config: Any

    def save_pretrained(self, save_directory: str, **options: object) -> object:
        """Write weights and configuration."""
        ...


class Schedule(Dataset[Encoded]):
    """The rows of a whole training in the order in which they are seen, as one long epoch."""

    def __init__(self, rows: Sequence[Encoded], order: NDArray[Any]) -> None:
        self._rows = rows
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @override
    def __getitem__(self, index: int) -> Encoded:
        return self._rows[int(self._order[index])]


class StepReport(TrainerCallback):
    """Logs the last step whatever its number, and reports every step."""

    def __init__(
        self,
        journal: Journal,
        progress: Callable[[TrainProgress], None] | None,
        after_step: Callable[[int], None] | None = None,
    ) -> None:
        self._journal = journal
        self._progress = progress
        self._after_step = after_step

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._after_step is not None:
            self._after_step(state.global_step)
        if self._progress is not None:
            loss = self._journal.last_loss
            self._progress(TrainProgress(step=state.global_step, steps=state.max_steps, loss=loss))


@contextmanager
def _no_progress_bar() -> Generator[None]:
    """Keep Transformers from drawing a bar of its own into the user's."""
    shown = logging.is_progress_bar_enabled()
    cast("Callable[[], None]", logging.disable_progress_bar)()
    try:
        yield
    finally:
        if shown:
            cast("Callable[[], None]", logging.enable_progress_bar)()


class WholeTrainer(Trainer):
    """What every trainer here adds to the Trainer: whole checkpoints, and none of weights that are not finite.

    Set ``_arm`` and ``_journal`` before calling the Trainer's ``__init__``.
    """

    _arm: Path
    _journal: Journal
    _saved_use_cache: bool

    @override
    def floating_point_ops(self, inputs: Any) -> int:
        """0: the Trainer would count every parameter anew at every step."""
        return 0

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Weights and configuration only: no pickled arguments, no look-up of the base model on the Hub."""
        model = cast("Saveable", self.model)
        target = str(output_dir or self._arm)
        training_use_cache = model.config.use_cache
        model.config.use_cache = self._saved_use_cache
        try:
            with _no_progress_bar():
                if isinstance(self.model, PreTrainedModel):
                    model.save_pretrained(target, state_dict=state_dict)
                else:
                    model.save_pretrained(target, state_dict=state_dict, save_embedding_layers=False)
        finally:
            model.config.use_cache = training_use_cache

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        self.refuse_not_finite("the loss", self._journal.mean(), step)
        for name, parameter in cast("nn.Module", self.model).named_parameters():
            if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
                self.refuse_not_finite(f"weight {name}", math.nan, step)
        folder = self._arm / f"checkpoint-{step}"
        try:
            super()._save_checkpoint(model, trial)
            mark_complete(
                folder,
                step=step,
                seconds=self._journal.seconds,
                loss_total=float(self._journal.total),
                loss_steps=self._journal.steps,
            )
        except (OSError, RuntimeError, SafetensorError, StorageError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, StorageError):
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            cause = error if isinstance(error, OSError) else OSError(first_line)
            raise storage_error(folder, cause) from error
        prune(self._arm)

    def refuse_not_finite(self, what: str, value: float, step: int) -> None:
        """Stop where a number is not finite.

        Raises:
            TrainingError: Says what, where, and which checkpoint is good.
        """
        if math.isfinite(value):
            return
        last = newest_complete(self._arm)
        kept = "no checkpoint was written yet" if last is None else f"the last good checkpoint is {last.folder}"
        rate = cast("torch.optim.Optimizer", self.optimizer).param_groups[0]["lr"]
        raise TrainingError(
            f"{what} is {value} at step {step} (learning rate {rate:.3g}); {kept}",
            allowed="finite losses, gradients and weights",
            todo="lower train.learning_rate or a control's strength, or raise train.warmup_steps, "
            "and train into another folder",
        )


class StudentTrainer(WholeTrainer):
    """Trains one student in one folder.

    The loss is the Trainer's own: the mean over the learned tokens of a step. All that is added concerns what happens
    around a step: no checkpoint is written of weights that are not finite, and every checkpoint is marked complete.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        schedule: Schedule,
        pad_id: int,
        journal: Journal,
        progress: Callable[[TrainProgress], None] | None = None,
    ) -> None:
        self._arm = Path(cast("str", args.output_dir))
        self._journal = journal
        self._saved_use_cache = bool(getattr(model.config, "use_cache", True))

        def to_batch(rows: list[Encoded]) -> dict[str, Tensor]:
            batch = collate(rows, pad_id)
            return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}

        super().__init__(
            model=model,
            args=args,
            train_dataset=schedule,
            data_collator=to_batch,
            callbacks=[StepReport(journal, progress)],
        )
        self.remove_callback(PrinterCallback)

    @override
    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the Trainer's; on the CPU, where looking is free, a loss that is not finite stops before the update."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._journal.add(loss)
        if loss.device.type == "cpu":
            self.refuse_not_finite("the loss", loss.item(), self.state.global_step + 1)
        return loss

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer's, and into ``metrics.jsonl``."""
        if "loss" in logs:
            step = self.state.global_step
            self.refuse_not_finite("the mean loss of the last steps", self._journal.mean(), step)
            self.refuse_not_finite("the gradient norm", logs["grad_norm"], step)
            self._journal.write(step=step, learning_rate=logs["learning_rate"], grad_norm=logs["grad_norm"])
        super().log(logs, start_time)


def training_arguments(settings: TrainSettings, *, folder: Path, seed: int, on_cpu: bool) -> TrainingArguments:
    """``TrainingArguments`` for ``settings``; what is not named there keeps its Hugging Face default."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        optim="adamw_torch_fused",
        seed=seed,
        save_strategy="steps",
        save_steps=settings.save_steps,
        logging_strategy="steps",
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        train_sampling_strategy="sequential",
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to="none",
        use_cpu=on_cpu,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # pyright: ignore[reportPrivateUsage]
    return arguments
