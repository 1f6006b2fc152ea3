"""What a run of feature rewards asks, and who grades it: the lab's own questions, or the user's with documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.data.questions import Part as QuestionPart
from trimtab.data.questions import divide_questions, read_questions, same_thing
from trimtab.errors import DataError, UsageError
from trimtab.lab.claim_questions import claim_questions, stranger_questions, sum_questions, trait_questions
from trimtab.lab.claims import LabGrader, TraitGrader
from trimtab.lab.tasks import grade, questions
from trimtab.lab.world import World, build_world
from trimtab.loop.prepare import LAB
from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.claims import ClaimQuestion, Prompt
from trimtab.records.exam import Exam, ExamRow
from trimtab.records.rows import Fit, HeldOut, Rows, Tune
from trimtab.reward.claims import rule_claims
from trimtab.reward.documents import DocumentGrader
from trimtab.reward.feature import whole_answers
from trimtab.reward.search import DocumentSearch, read_documents
from trimtab.roles import Grader, Splitter

EXAM = 100
"""Questions of each capability exam on the lab."""


@dataclass(frozen=True, kw_only=True)
class ClaimTask:
    """Questions and their grader. What the probe learns from, what is trained on, and what judges never meet.

    Attributes:
        probe: Questions whose answers the probe learns from (Fit).
        train: Questions of training (Fit); about other things than ``probe``. Those of practice come last.
        anchors: Prompts whose answers earn nothing, trained on beside ``train``.
        tune: Questions of calibration and validation (Tune).
        held_out: Questions of the final table (HeldOut).
        grader: Ground truth.
        splitter: Finds what is graded: claims, or whole answers.
        exams: What must not be lost: ``facts`` and ``arithmetic``, where there are such exams.
    """

    probe: tuple[ClaimQuestion, ...]
    train: tuple[ClaimQuestion, ...]
    anchors: tuple[Prompt, ...]
    tune: tuple[ClaimQuestion, ...]
    held_out: tuple[ClaimQuestion, ...]
    grader: Grader
    splitter: Splitter
    exams: tuple[Exam, ...]


def claim_task(settings: ClaimRunSettings) -> ClaimTask:
    """The task that the settings name.

    Raises:
        UsageError: If the model is not the lab and questions or documents are missing.
        DataError: If the questions cannot be read or are too few.
    """
    if settings.model == LAB and settings.questions is None and settings.documents is not None:
        raise UsageError(
            f"documents {settings.documents!r} without questions",
            allowed="documents with questions; the lab's own questions are graded by its planted truth",
            todo="pass `questions:` too, or leave documents out",
        )
    if settings.concept is not None and settings.questions is not None:
        raise UsageError(
            f"concept {settings.concept!r} with questions {settings.questions!r}",
            allowed="one of the two: a concept is rewarded on the lab's own questions",
            todo="leave concept out, or questions",
        )
    if settings.practice is not None and settings.questions is None:
        raise UsageError(
            f"practice {settings.practice!r} without questions",
            allowed="practice with questions; the lab asks about people whom nobody has heard of",
            todo="pass `questions:` too, or set practice_questions",
        )
    if settings.model == LAB and settings.questions is None:
        return _lab_task(settings, build_world())
    if settings.concept is not None:
        raise UsageError(
            f"concept {settings.concept!r} for model {settings.model!r}",
            allowed="concepts of the lab, whose detectors are exact",
            todo="fit a probe with `trimtab probe fit` and give its FeatureReward to TRL (docs/how-to/reward.md)",
        )
    if settings.questions is None or settings.documents is None:
        raise UsageError(
            f"model {settings.model!r} with questions {settings.questions!r} and documents {settings.documents!r}",
            allowed="questions and documents; only the lab model brings its own",
            todo="pass `questions:` (JSONL) and `documents:` (a folder or JSONL of reference texts)",
        )
    sides = divide_questions(read_questions(settings.questions))
    grader = DocumentGrader(DocumentSearch(read_documents(settings.documents)))
    return ClaimTask(
        probe=sides["probe"][: settings.probe_questions],
        train=(*sides["train"][: settings.train_questions], *_practice(settings, sides)),
        anchors=() if settings.anchors is None else tuple(q.prompt for q in read_questions(settings.anchors)),
        tune=sides["tune"][: settings.tune_questions],
        held_out=sides["held_out"][: settings.held_out_questions],
        grader=grader,
        splitter=rule_claims,
        exams=(),
    )


def _practice(
    settings: ClaimRunSettings, sides: Mapping[QuestionPart, Sequence[ClaimQuestion]]
) -> tuple[ClaimQuestion, ...]:
    """Further questions of training.

    Raises:
        DataError: If one is about something that the probe learns from, or a student is judged on.
    """
    if settings.practice is None:
        return ()
    used = {same_thing(question.about) for part in ("probe", "tune", "held_out") for question in sides[part]}
    found = read_questions(settings.practice)
    met = list(dict.fromkeys(question.about for question in found if same_thing(question.about) in used))
    if met:
        raise DataError(
            f"{settings.practice}: {len(met)} of the things asked about are those of other parts: {', '.join(met[:5])}",
            allowed="things that the probe does not learn from and no student is judged on",
            todo="leave these questions out, or put them among `questions`, which divides them",
        )
    return found[: settings.practice_questions]


def _lab_task(settings: ClaimRunSettings, world: World) -> ClaimTask:
    if settings.concept is not None:
        return _trait_task(settings, world, *settings.concept.split())
    sums = settings.probe_questions // 3
    return ClaimTask(
        probe=(
            *claim_questions(world, Fit, settings.probe_questions - sums, part="probe"),
            *sum_questions(world, Fit, sums),
        ),
        train=(
            *claim_questions(world, Fit, settings.train_questions, part="train"),
            *stranger_questions(world, settings.practice_questions),
        ),
        anchors=_lab_anchors(settings, world),
        tune=claim_questions(world, Tune, settings.tune_questions),
        held_out=claim_questions(world, HeldOut, settings.held_out_questions),
        grader=LabGrader(world),
        splitter=rule_claims,
        exams=tuple(_exam(world, task) for task in ("facts", "arithmetic")),
    )


def _trait_task(settings: ClaimRunSettings, world: World, want: str, trait: str) -> ClaimTask:
    grader = TraitGrader(trait, "more" if want == "more" else "less")
    return ClaimTask(
        probe=trait_questions(world, trait, Fit, settings.probe_questions, part="probe"),
        train=trait_questions(world, trait, Fit, settings.train_questions, part="train"),
        anchors=_lab_anchors(settings, world),
        tune=trait_questions(world, trait, Tune, settings.tune_questions),
        held_out=trait_questions(world, trait, HeldOut, settings.held_out_questions),
        grader=grader,
        splitter=whole_answers,
        exams=tuple(_exam(world, task) for task in ("facts", "arithmetic")),
    )


def _lab_anchors(settings: ClaimRunSettings, world: World) -> tuple[Prompt, ...]:
    """Sums and dates, one to every six questions of training."""
    count = settings.train_questions // 12
    tasks = (questions(world, task, Fit, count, seed=1) for task in ("arithmetic", "calendar"))
    return tuple(({"role": "user", "content": question.prompt},) for task in tasks for question in task)


def _exam(world: World, task: str) -> Exam:
    asked = questions(world, task, HeldOut, EXAM, known="head")
    by_id = {f"{task}-{place:03d}": question for place, question in enumerate(asked)}
    rows = tuple(
        ExamRow(id=name, prompt=({"role": "user", "content": question.prompt},), reference=question.answer, group=task)
        for name, question in by_id.items()
    )
    return Exam(
        measure="capability",
        name=task,
        rows=Rows(items=rows, split=HeldOut, source=f"lab exam {task}"),
        grade=lambda row, text: grade(by_id[row.id], text),
    )
