"""The stages of a run of feature rewards: how questions are answered in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.loop.claim_task import ClaimTask, claim_task
from trimtab.model.generate import generate, stop_ids
from trimtab.model.host import Host, LanguageModel
from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.claims import Action, Claim, ClaimQuestion, Prompt
from trimtab.reward.best_of import best_of
from trimtab.reward.grades import CachedGrader
from trimtab.reward.harness import monitored
from trimtab.reward.reading import ClaimProbe, ClaimReader
from trimtab.roles import Grader, Reader

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every stage of a run needs, loaded.

    Attributes:
        settings: The run's settings.
        host: The frozen host.
        task: Questions and exams.
        grader: Ground truth, remembered in the run folder.
        reader: The frozen host's reading of claims.
    """

    settings: ClaimRunSettings
    host: Host
    task: ClaimTask
    grader: Grader
    reader: Reader


@dataclass(frozen=True, kw_only=True)
class StageAnswer:
    """An answer, and what a harness did about its claims."""

    text: str
    actions: tuple[tuple[Claim, Action | None], ...] = ()


def load_setup(settings: ClaimRunSettings, folder: Path, host: Host) -> Setup:
    """Load what ``probe_step`` left in a run folder."""
    task = claim_task(settings)
    return Setup(
        settings=settings,
        host=host,
        task=task,
        grader=task.grader if _free(task.grader) else CachedGrader(task.grader, folder / "grades"),
        reader=ClaimReader(host, ClaimProbe.load(folder / "probe")),
    )


def _free(grader: Grader) -> bool:
    """The lab's planted truth costs nothing to ask again."""
    return grader.name.startswith("lab-")


def answer_stage(
    setup: Setup,
    lm: LanguageModel,
    stage: str,
    questions: Sequence[ClaimQuestion],
    seed: int,
    progress: Progress | None = None,
) -> tuple[StageAnswer, ...]:
    """Answers to questions: plain, under the harness (``monitor``), or the best of N under the harness (``after``)."""
    return _answers(setup, lm, stage, [question.prompt for question in questions], seed, progress)


def answer_exams(setup: Setup, lm: LanguageModel, stage: str, seed: int) -> dict[str, list[bool]]:
    """Which exam questions are answered right, answered as the stage answers everything."""
    return {
        exam.name: [
            exam.grade(row, answer.text)
            for row, answer in zip(
                exam.rows, _answers(setup, lm, stage, [row.prompt for row in exam.rows], seed, None), strict=True
            )
        ]
        for exam in setup.task.exams
    }


def _answers(
    setup: Setup, lm: LanguageModel, stage: str, prompts: Sequence[Prompt], seed: int, progress: Progress | None
) -> tuple[StageAnswer, ...]:
    settings = setup.settings
    tokens = settings.train.max_completion_length
    if stage in ("before", "weights"):
        texts = generate(
            lm, prompts, max_new_tokens=tokens, temperature=settings.temperature, seed=seed, batch_size=256
        )
        return tuple(StageAnswer(text=text) for text in texts)
    first = _best(setup, lm, prompts, seed) if stage == "after" else None
    said = monitored(
        lm,
        setup.reader,
        setup.task.splitter,
        prompts,
        settings.harness,
        max_new_tokens=tokens,
        temperature=settings.temperature,
        seed=seed,
        batch_size=256,
        first=first,
        progress=progress,
    )
    return tuple(StageAnswer(text=one.answer, actions=tuple(zip(one.claims, one.actions, strict=True))) for one in said)


def _best(setup: Setup, lm: LanguageModel, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
    """The best of N answers to each prompt by probe, as tokens."""
    settings = setup.settings
    chosen = best_of(
        lm,
        prompts,
        n=settings.best_of,
        reader=setup.reader,
        splitter=setup.task.splitter,
        max_new_tokens=settings.train.max_completion_length,
        temperature=settings.best_of_temperature,
        seed=seed,
        batch_size=256,
    )
    stop = stop_ids(lm)[0]
    return [
        [*lm.tokenizer.encode(one.text, add_special_tokens=False, split_special_tokens=True), stop] for one in chosen
    ]
