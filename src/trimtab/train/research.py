"""Research only: students that are paid by a probe on their own activations, with or without gradients through it.

Everything else in this package reads with the frozen host, because a student that is trained against a reading of
itself learns to change what is read (2412.09565, 2602.15515). To measure by how much, one has to do it. Nothing in the
package calls this module; whoever does says so in ``ResearchSettings``, and what comes out is marked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from trimtab.errors import UsageError
from trimtab.model.base import LanguageModel
from trimtab.model.host import Host
from trimtab.model.sites import unwrap
from trimtab.records.claims import Prompt
from trimtab.records.config import Settings
from trimtab.records.rewards import GrpoSettings
from trimtab.records.rows import Message
from trimtab.roles import Explore, Reward
from trimtab.train.grpo import PolicyResult, Validate, train_policy
from trimtab.train.grpo_trainer import FeatureTrainer
from trimtab.train.trainer import TrainProgress

OnStudent: TypeAlias = Literal["read", "gradient"]
"""``read``: the reward reads the student's own activations; ``gradient``: besides, gradients flow through the probe."""


class ResearchSettings(Settings):
    """What is done to a student that an interpreter of it would rather not have done."""

    on_student: OnStudent = Field(description="read the student's activations, or send gradients through the probe too")
    weight: float = Field(default=0.5, gt=0, description="weight of the probe's term in the loss, for `gradient`")
    i_know_this_fights_interpretability: bool = Field(
        default=False, description="has to be true: the student is trained against a reading of its own activations"
    )


@runtime_checkable
class StudentProbe(Protocol):
    """Reads claims on a student's own activations and keeps the graph; its own weights get no gradient."""

    def __call__(
        self, model: PreTrainedModel, prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> Float[Tensor, " claim"]:
        """Calibrated log-odds that each asserted claim of the answers is right."""
        ...


class CurrentStudent:
    """The student that is being trained, for readers that are made before it is."""

    def __init__(self) -> None:
        self.lm: LanguageModel | None = None

    def __call__(self) -> LanguageModel:
        """The student as it is now.

        Raises:
            UsageError: If no training has begun.
        """
        if self.lm is None:
            raise UsageError(
                "a reading of the student before there is one",
                allowed="readings during `train_on_student`",
                todo="pass this object to `train_on_student`",
            )
        return self.lm


class StudentProbeTrainer(FeatureTrainer):
    """``FeatureTrainer`` that lends out its student, and for ``gradient`` adds the probe to the loss.

    The loss is then ``L_GRPO - weight * mean over asserted claims of log sigmoid(probe)``; every batch of answers is
    trained on once, in one piece (as ``grpo_arguments`` has it).

    Args:
        given: Arguments of ``FeatureTrainer``.
        research: What is done, and that it is meant.
        student: Told which model is being trained.
        probe: What the gradients flow through; for ``gradient`` only.
        named: Arguments of ``FeatureTrainer``.

    Raises:
        UsageError: If ``research`` does not say that it is meant, or ``probe`` does not fit ``on_student``.
    """

    def __init__(
        self,
        *given: object,
        research: ResearchSettings,
        student: CurrentStudent,
        probe: StudentProbe | None,
        **named: object,
    ) -> None:
        check_research(research, probe)
        self._research = research
        self._probe = probe
        self._answered: tuple[list[Prompt], list[str]] = ([], [])
        cast("Any", super()).__init__(*given, **named)
        student.lm = LanguageModel(
            model=unwrap(cast("nn.Module", self.model)),
            tokenizer=cast("PreTrainedTokenizerBase", self.processing_class),
            name="student",
            content_hash="",
        )

    @override
    def _pay(
        self, prompts: list[list[Message]], completions: list[list[Message]], *args: Any, **kwargs: Any
    ) -> list[float]:
        """As for any reward; the answers are kept for the loss."""
        self._answered = ([tuple(prompt) for prompt in prompts], [one[0]["content"] for one in completions])
        return super()._pay(prompts, completions, *args, **kwargs)

    @override
    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """As TRL's, and the probe's term."""
        loss = cast("Tensor", super().compute_loss(model, inputs, *args, **kwargs))
        if self._probe is None:
            return loss
        odds = self._probe(unwrap(model), *self._answered)
        if not len(odds):
            return loss
        self._note({"student_probe": float(torch.sigmoid(odds.detach()).mean())})
        return loss - self._research.weight * functional.logsigmoid(odds).mean()


def check_research(research: ResearchSettings, probe: StudentProbe | None) -> None:
    """Refuse what was not meant.

    Raises:
        UsageError: If ``research`` does not say that it is meant, or ``probe`` does not fit ``on_student``.
    """
    if not research.i_know_this_fights_interpretability:
        raise UsageError(
            f"a student trained against a probe on its own activations (on_student {research.on_student!r})",
            allowed="readings by the frozen host; for research: i_know_this_fights_interpretability=True",
            todo="use `train_policy` with a `ClaimReader` of the host, unless obfuscation is what you study",
        )
    if (probe is not None) != (research.on_student == "gradient"):
        raise UsageError(
            f"on_student {research.on_student!r} {'without' if probe is None else 'with'} a probe for gradients",
            allowed="a probe for 'gradient', none for 'read'",
            todo="pass `probe=` if gradients are to flow through it",
        )


def train_on_student(
    host: Host,
    prompts: Sequence[Prompt],
    wanted: Sequence[float],
    reward: Reward,
    settings: GrpoSettings,
    research: ResearchSettings,
    *,
    student: CurrentStudent,
    seed: int,
    folder: Path,
    probe: StudentProbe | None = None,
    validate: Validate | None = None,
    identity: Mapping[str, object] | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
    explore: Explore | None = None,
) -> PolicyResult:
    """``train_policy`` with a reward that may read the student. The folder's manifest says that it was done.

    Args:
        host: The frozen reference; it is copied, never touched.
        prompts: Prompts to train on.
        wanted: Claims that the host makes in answer to each.
        reward: What answers earn; its reader may look at ``student``.
        settings: How to train.
        research: What is done, and that it is meant.
        student: Told which model is being trained.
        seed: Fixes the order of prompts, sampling and LoRA's start values.
        folder: The student's own folder.
        probe: What gradients flow through, for ``on_student="gradient"``.
        validate: As for ``train_policy``.
        identity: As for ``train_policy``; ``research`` is added.
        progress: Called after every step.
        explore: As for ``train_policy``.

    Raises:
        UsageError: If ``research`` does not say that it is meant, or ``probe`` does not fit ``on_student``; otherwise
            as ``train_policy``.
        TrainingError: As ``train_policy``.
        StorageError: As ``train_policy``.
    """
    check_research(research, probe)
    return train_policy(
        host,
        prompts,
        wanted,
        reward,
        settings,
        seed=seed,
        folder=folder,
        validate=validate,
        identity={**(identity or {}), "research": research.model_dump(mode="json")},
        progress=progress,
        explore=explore,
        make=partial(StudentProbeTrainer, research=research, student=student, probe=probe),
    )
