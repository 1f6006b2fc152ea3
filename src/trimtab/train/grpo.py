"""GRPO of one student under a reward: killed at any point, the same call goes on. The best checkpoint is kept.

Which checkpoint is best is decided by a validation that the caller brings, which goes by ground truth: the probe that
pays the student has no say in it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from torch import nn
from transformers import PreTrainedModel

from trimtab.data.template import encode_prompt
from trimtab.errors import StorageError, UsageError
from trimtab.model.base import LanguageModel
from trimtab.model.generate import context_length, stop_ids
from trimtab.model.host import Host
from trimtab.model.sites import unwrap
from trimtab.records.claims import Prompt
from trimtab.records.io import load, save, storage_error
from trimtab.records.rewards import GrpoSettings
from trimtab.roles import Explore, Reward
from trimtab.train.checkpoints import Checkpoint, file_hash, link_or_copy, matches, newest_complete, remove_all_but
from trimtab.train.grpo_trainer import REWARD_STATE, FeatureTrainer, aside, grpo_arguments
from trimtab.train.manifest import library_versions
from trimtab.train.metrics import Journal, MetricLine, read_metrics, trim_metrics
from trimtab.train.runs import claim, locked, refuse_several_processes
from trimtab.train.student import check_frozen, freeze_first, lora_config, quiet_peft
from trimtab.train.threads import fixed_threads, training_threads
from trimtab.train.trainer import TrainProgress
from trimtab.train.validations import (
    VALIDATION,
    Keeper,
    Validation,
    best_folder,
    best_of,
    read_validations,
    remove_best,
)

DONE: Final = "done.json"
METRICS: Final = "metrics.jsonl"
_PUBLISHED: Final = ("*.safetensors", "*.safetensors.index.json", "*config.json")
_PATIENCE: Final = 5.0
_log = logging.getLogger(__name__)


Validate = Callable[[LanguageModel], tuple[float, dict[str, float]]]
"""Given a student: its score and the figures behind it."""
MakeTrainer = Callable[..., FeatureTrainer]
"""``FeatureTrainer``, or what makes one: called with its arguments."""


@dataclass(frozen=True, kw_only=True)
class PolicyDone:
    """Content of ``done.json``: this student is trained.

    Attributes:
        steps: Optimiser steps taken.
        best_step: The step whose weights were kept.
        seconds: Training time over all resumptions.
        files: SHA-256 of weights and configuration.
    """

    steps: int
    best_step: int
    seconds: float
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """A trained student.

    Attributes:
        folder: Where it lies; ``student.load_student`` loads it.
        steps: Optimiser steps taken.
        best_step: The step whose weights were kept.
        seconds: Training time over all resumptions.
        curve: Every line of metrics.
        validations: Every validation.
    """

    folder: Path
    steps: int
    best_step: int
    seconds: float
    curve: tuple[MetricLine, ...]
    validations: tuple[Validation, ...]


def train_policy(
    host: Host,
    prompts: Sequence[Prompt],
    wanted: Sequence[float],
    reward: Reward,
    settings: GrpoSettings,
    *,
    seed: int,
    folder: Path,
    validate: Validate | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    explore: Explore | None = None,
    make: MakeTrainer = FeatureTrainer,
) -> PolicyResult:
    """Train a fresh copy of ``host`` under a reward, or go on where the same call was stopped.

    Args:
        host: The frozen reference; it is copied, never touched.
        prompts: Prompts to train on.
        wanted: Claims that the host makes in answer to each.
        reward: What answers earn.
        settings: How to train.
        seed: Fixes the order of prompts, sampling and LoRA's start values.
        folder: The student's own folder.
        validate: Judges the student every ``validate_steps`` and at the end; without it the last weights are kept.
        identity: What else made the reward (probe, prices): a resumed folder must agree.
        progress: Called after every step.
        explore: Says where in sampled answers the other choice is to be tried; needed with ``settings.explore_words``.
        make: Makes the trainer.

    Raises:
        UsageError: If prompts and wanted claims differ in number, a batch is no whole number of groups, a prompt and an
            answer would not fit into the context, or settings do not go together; or if started as one of several
            processes.
        TrainingError: If a reward, a validation, the loss, the gradient or a weight is not finite; checkpoints stay.
        StorageError: If the folder cannot be written, is in use, is damaged, or was made by another call.
    """
    refuse_several_processes()
    _check(prompts, wanted)
    check_settings(settings)
    _check_exploring(settings, explore)
    check_frozen(host.model, settings.freeze_layers)
    _check_context(host, prompts, settings)
    whole_identity = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "model": host.content_hash,
        "prompts": _hash([[[turn["role"], turn["content"]] for turn in prompt] for prompt in prompts]),
        "wanted": _hash(list(wanted)),
        "reward": reward.name,
        "validated": validate is not None,
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
        step = 0 if checkpoint is None else checkpoint.step
        trim_metrics(folder / METRICS, step)
        if checkpoint is None or step < settings.max_steps:
            _fit(
                host,
                prompts,
                wanted,
                reward,
                settings,
                seed=seed,
                folder=folder,
                start=checkpoint,
                validate=validate,
                progress=progress,
                explore=explore,
                make=make,
            )
            gc.collect()  # a Trainer is a circle of references; its weights must go before the next student comes
        _publish(folder, host)
        return _finished(folder)


def _check(prompts: Sequence[Prompt], wanted: Sequence[float]) -> None:
    if not prompts or len(prompts) != len(wanted):
        raise UsageError(
            f"{len(prompts)} prompts, {len(wanted)} wanted claims",
            allowed="at least one prompt, and one number for each",
            todo="count the claims of the host's own answers to each prompt",
        )


def _check_exploring(settings: GrpoSettings, explore: Explore | None) -> None:
    if settings.explore_words is not None and explore is None:
        raise UsageError(
            f"explore_words {settings.explore_words!r} without a reward that says where to try them",
            allowed="explore_words together with `explore`",
            todo="pass `explore=reward.better_choices` of a FeatureReward, or leave explore_words out",
        )


def check_settings(settings: GrpoSettings) -> None:
    """Refuse settings that do not go together, before anything is paid for.

    Raises:
        UsageError: Says which, what is allowed and what to do.
    """
    if settings.per_device_train_batch_size % settings.num_generations:
        raise UsageError(
            f"per_device_train_batch_size {settings.per_device_train_batch_size}, num_generations "
            f"{settings.num_generations}",
            allowed="a batch that is a whole number of groups",
            todo="set per_device_train_batch_size to a multiple of num_generations",
        )
    if settings.save_steps % settings.logging_steps:
        raise UsageError(
            f"save_steps {settings.save_steps}, logging_steps {settings.logging_steps}",
            allowed="save_steps that are a multiple of logging_steps, so that a resumed run writes the same lines",
            todo="set save_steps to a multiple of logging_steps",
        )
    if settings.kl_target is not None and not settings.beta:
        raise UsageError(
            f"kl_target {settings.kl_target}, beta 0",
            allowed="a kl_target with a beta above 0, from which it is raised",
            todo="set beta, or leave kl_target out",
        )
    if settings.freeze_layers and settings.method != "full":
        raise UsageError(
            f"freeze_layers {settings.freeze_layers}, method {settings.method}",
            allowed="freeze_layers with method full: an adapter leaves the model's own weights as they are",
            todo="leave freeze_layers out, or set method to full",
        )
    if settings.save_steps % settings.steps_per_generation:
        raise UsageError(
            f"save_steps {settings.save_steps}, steps_per_generation {settings.steps_per_generation}",
            allowed="save_steps that are a multiple of steps_per_generation: a checkpoint holds no sampled answers",
            todo="set save_steps to a multiple of steps_per_generation",
        )
    _check_explore_words(settings)


def _check_explore_words(settings: GrpoSettings) -> None:
    if settings.explore_words is not None and not settings.dense:
        raise UsageError(
            "explore_words with dense false",
            allowed="explore_words with dense true: what was put there or taken away has to earn by itself",
            todo="set dense to true, or leave explore_words out",
        )
    if settings.explore_words is not None and settings.use_vllm:
        raise UsageError(
            "explore_words with use_vllm",
            allowed="one of the two: TRL weighs vLLM's answers by how likely it was to sample them, and nobody sampled "
            "the words that are tried",
            todo="leave explore_words out, or set use_vllm to false",
        )


def _check_context(host: Host, prompts: Sequence[Prompt], settings: GrpoSettings) -> None:
    lengths = [len(encode_prompt(host.tokenizer, prompt)) for prompt in prompts]
    room = context_length(host)
    if max(lengths) + settings.max_completion_length > room:
        raise UsageError(
            f"prompt {lengths.index(max(lengths)) + 1} has {max(lengths)} tokens, max_completion_length is "
            f"{settings.max_completion_length}",
            allowed=f"prompts that leave room for an answer in the model's context of {room} tokens",
            todo="shorten the prompt, or lower max_completion_length",
        )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _fit(
    host: Host,
    prompts: Sequence[Prompt],
    wanted: Sequence[float],
    reward: Reward,
    settings: GrpoSettings,
    *,
    seed: int,
    folder: Path,
    start: Checkpoint | None,
    validate: Validate | None,
    progress: Callable[[TrainProgress], None] | None,
    explore: Explore | None,
    make: MakeTrainer,
) -> None:
    student = _student(host, settings)
    journal = Journal(path=folder / METRICS)
    if start is not None:
        journal.total, journal.steps = start.complete.loss_total, start.complete.loss_steps
        journal.earlier_seconds = start.complete.seconds
    keeper = Keeper(folder, 0 if start is None else start.step)

    def after_step(step: int) -> None:
        if validate is not None and (step % settings.validate_steps == 0 or step == settings.max_steps):
            lm = LanguageModel(
                model=unwrap(cast("nn.Module", trainer.model)),
                tokenizer=host.tokenizer,
                name=str(folder),
                content_hash=f"step {step}",
            )
            with aside(host.device):
                score, figures = validate(lm)
            for name, value in {"the validation score": score, **figures}.items():
                trainer.refuse_not_finite(name, value, step)
            keeper.take(Validation(step=step, score=score, figures=figures), trainer.save_weights)

    with warnings.catch_warnings(), quiet_peft():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"trl|transformers|torch")
        warnings.filterwarnings("ignore", message=".*checkpointing.* is deprecated", category=FutureWarning)
        trainer = make(
            student,
            settings,
            grpo_arguments(settings, folder=folder, seed=seed, on_cpu=host.device.type == "cpu"),
            reward=reward,
            prompts=prompts,
            wanted=wanted,
            tokenizer=host.tokenizer,
            reference=host.model,
            journal=journal,
            peft_config=lora_config(student, settings) if settings.method == "lora" else None,
            progress=progress,
            after_step=after_step,
            explore=explore,
        )
        if start is None and not (folder / REWARD_STATE).exists():
            trainer.save_reward(folder)
        trainer.go_on_from(folder if start is None else start.folder)
        trainer.train(resume_from_checkpoint=None if start is None else str(start.folder))


def _student(host: Host, settings: GrpoSettings) -> PreTrainedModel:
    """A copy of the host that ends its answers where the host's template does, as far as it is free to learn."""
    student = host.student()
    student.generation_config.eos_token_id = stop_ids(host)
    if settings.freeze_layers:
        freeze_first(student, settings.freeze_layers)
    return student


def _publish(folder: Path, host: Host) -> None:
    """Put the best weights in the conventional place, then say so, then let the checkpoints go."""
    last = newest_complete(folder)
    if last is None:
        raise StorageError(
            f"{folder}: the last checkpoint is damaged",
            allowed="a disk that gives back what was written",
            todo="check the disk, then run the same command again: it resumes",
        )
    best = best_of(read_validations(folder / VALIDATION))
    source = last.folder if best is None else best_folder(folder, best)
    published = sorted({path for pattern in _PUBLISHED for path in source.glob(pattern)})
    if not published:
        raise StorageError(
            f"{source} is gone, whose weights were the best",
            allowed="the folders that training wrote",
            todo="remove this student's folder and run the same command again to train it anew",
        )
    try:
        for path in published:
            link_or_copy(path, folder / path.name)
        host.tokenizer.save_pretrained(str(folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    files = {path.name: file_hash(folder / path.name) for path in published}
    done = PolicyDone(
        steps=last.step,
        best_step=last.step if best is None else best.step,
        seconds=last.complete.seconds,
        files=files,
    )
    save(done, folder / DONE)
    remove_all_but(folder, None)
    remove_best(folder)


def _finished(folder: Path) -> PolicyResult:
    done = load(PolicyDone, folder / DONE)
    if not matches(folder, done.files):
        raise StorageError(
            f"the weights in {folder} are not those that training wrote",
            allowed=f"files with the hashes that {DONE} names",
            todo="remove this student's folder and run the same command again to train it anew",
        )
    remove_all_but(folder, None)
    remove_best(folder)
    return PolicyResult(
        folder=folder,
        steps=done.steps,
        best_step=done.best_step,
        seconds=done.seconds,
        curve=read_metrics(folder / METRICS),
        validations=read_validations(folder / VALIDATION),
    )
