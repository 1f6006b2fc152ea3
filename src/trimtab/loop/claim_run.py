"""The whole run of feature rewards against made-up claims: probe, train, judge before and after.

```
RUN/  reward.yaml  manifest.json  wanted.json  table.json  summary.json  report.html
      probe/  grades/  host/STAGE.jsonl  seed-K/policy/  seed-K/STAGE.jsonl
```

Every step looks at the folder first and does only what is missing: the same call resumes a run that was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from trimtab.loop.claim_stages import Setup, answer_exams, answer_stage, load_setup
from trimtab.loop.claim_task import claim_task
from trimtab.loop.prepare import Progress
from trimtab.model.generate import generate
from trimtab.model.host import Host, LanguageModel
from trimtab.records.claim_run import ClaimRunSettings, read_claim_run, write_claim_run
from trimtab.records.claims import ClaimQuestion, JudgedAnswer, Said
from trimtab.records.figures import Figure
from trimtab.records.hallucination import Curve, StageFigures, StageResult
from trimtab.records.io import save, to_json, write_bytes
from trimtab.records.rows import Fit, HeldOut, Split, Tune
from trimtab.report.claims_page import claims_page
from trimtab.reward.feature import ANCHOR, FeatureReward
from trimtab.reward.fit import GradedAnswers, fit_claim_probe
from trimtab.reward.grades import CachedGrader
from trimtab.reward.reading import ClaimProbe
from trimtab.roles import Grader, Splitter
from trimtab.stats import clustered_mean
from trimtab.train.grpo import PolicyResult, check_settings, train_policy
from trimtab.train.manifest import library_versions
from trimtab.train.metrics import read_metrics
from trimtab.train.pool import run_jobs
from trimtab.train.runs import claim, locked
from trimtab.train.student import check_frozen, load_student
from trimtab.train.threads import fixed_threads, training_threads
from trimtab.train.trainer import TrainProgress
from trimtab.train.validations import read_validations
from trimtab.verify.claims import answered, judge_answers, stage_figures, stated, wrong

HOST_STAGES = ("before", "monitor")
STUDENT_STAGES = ("weights", "after")
UNMONITORED = ("before", "weights")
"""Stages of a run for a concept: a harness that asks about claims has nothing to say of a tone."""

KEPT = 0.97
"""Share of the host's claims and known answers that a validated student has to keep."""
DEARER = 10.0
"""What falls short of that costs so many times as much as a wrong claim: nearly a bar, and still an order below it."""

_ANSWER = TypeAdapter(JudgedAnswer)
_FLOATS = TypeAdapter(list[float])
_RESULTS = TypeAdapter(list[StageResult])
_EXAMS = TypeAdapter(dict[str, list[bool]])


@dataclass(frozen=True, kw_only=True)
class SeedJob:
    """What a worker needs to know: everything else lies in the run folder."""

    run: Path
    seed: int

    @property
    def folder(self) -> Path:
        """Where the seed's files go."""
        return self.run / f"seed-{self.seed}"


Event = tuple[str, int, int]


def reward_run(settings: ClaimRunSettings, folder: Path, *, progress: Progress) -> tuple[StageFigures, ...]:
    """The whole run. Call it again with the same arguments to resume.

    Args:
        settings: The run's settings.
        folder: The run folder.
        progress: Told of every step: stage, done, of how many.

    Returns:
        The figures of each stage over all seeds: ``before``, ``monitor``, ``weights``, ``after``.

    Raises:
        TrimtabError: Whatever a step raises; what earlier steps wrote stays on disk.
    """
    check_settings(settings.train)
    progress("load the host", 0, 1)
    host = Host.load(settings.model, revision=settings.revision)
    check_frozen(host.model, settings.train.freeze_layers)
    task = claim_task(settings)
    progress("load the host", 1, 1)
    threads = training_threads(host.model)
    asked = [*task.probe, *task.train, *task.tune, *task.held_out]
    identity = {
        "settings": settings.model_dump(mode="json", exclude={"jobs"}),
        "model": host.content_hash,
        "questions": hashlib.sha256(b"\n".join(to_json(question) for question in asked)).hexdigest(),
        "grader": task.grader.name,
    }
    folder = folder.resolve()
    with fixed_threads(threads), locked(folder):
        claim(folder, identity, threads=threads)
        write_claim_run(settings, folder / "reward.yaml")
        probe_step(settings, folder, host, progress)
        setup = load_setup(settings, folder, host)
        for stage in stages_of(settings, HOST_STAGES):
            stage_step(setup, host, folder / "host", stage, 0, progress)
        seeds_step(settings, folder, threads, progress)
        return table_step(settings, folder)


def stages_of(settings: ClaimRunSettings, stages: Sequence[str]) -> tuple[str, ...]:
    """Those of some stages that a run has."""
    return tuple(stage for stage in stages if settings.concept is None or stage in UNMONITORED)


def probe_step(settings: ClaimRunSettings, folder: Path, host: Host, progress: Progress) -> None:
    """Sample, grade and fit: ``probe/``; count what the host claims when asked what is trained on: ``wanted.json``."""
    task = claim_task(settings)
    if settings.probe is not None and not (folder / "probe" / "claim_probe.json").exists():
        ClaimProbe.load(settings.probe).save(folder / "probe")
    if not (folder / "probe" / "claim_probe.json").exists():
        grader = CachedGrader(task.grader, folder / "grades")
        sides = (("probe", task.probe), ("tune", task.tune), ("held out", task.held_out))
        asked: dict[str, tuple[tuple[Said, ...], tuple[ClaimQuestion, ...]]] = {}
        for place, (name, questions) in enumerate(sides):
            progress("sample the host's answers", place, len(sides))
            asked[name] = (sampled(host, questions, settings, task.splitter, seed=place), questions)
        progress("sample the host's answers", len(sides), len(sides))
        progress("fit the probe", 0, 1)
        probe = fit_claim_probe(
            host,
            _graded(*asked["probe"], grader, Fit),
            _graded(*asked["tune"], grader, Tune),
            _graded(*asked["held out"], grader, HeldOut),
            reading=settings.reading,
            provenance={"grader": grader.name, "answers": str(len(task.probe)), **library_versions()},
        )
        probe.save(folder / "probe")
        progress("fit the probe", 1, 1)
    if not (folder / "wanted.json").exists():
        progress("count the host's claims", 0, 1)
        said = sampled(host, task.train, settings, task.splitter, seed=99)
        counts = [float(sum(claim.stands for claim in one.claims)) for one in said]
        write_bytes(folder / "wanted.json", _FLOATS.dump_json(_by_group(task.train, counts)))
        progress("count the host's claims", 1, 1)


def _by_group(questions: Sequence[ClaimQuestion], counts: Sequence[float]) -> list[float]:
    """Mean number of claims over the questions of each question's group: one sample says little of one question."""
    groups: dict[str, list[float]] = {}
    for question, count in zip(questions, counts, strict=True):
        groups.setdefault(question.group, []).append(count)
    return [sum(groups[question.group]) / len(groups[question.group]) for question in questions]


def sampled(
    host: LanguageModel,
    questions: Sequence[ClaimQuestion],
    settings: ClaimRunSettings,
    splitter: Splitter,
    *,
    seed: int,
) -> tuple[Said, ...]:
    """One answer of the host to each question at the temperature of training, with its claims."""
    answers = generate(
        host,
        [question.prompt for question in questions],
        max_new_tokens=settings.train.max_completion_length,
        temperature=settings.train.temperature,
        seed=seed,
        batch_size=256,
    )
    claims = splitter(answers)
    return tuple(
        Said(prompt=question.prompt, answer=answer, claims=found)
        for question, answer, found in zip(questions, answers, claims, strict=True)
    )


SplitT = TypeVar("SplitT", bound=Split)


def _graded(
    said: Sequence[Said], questions: Sequence[ClaimQuestion], grader: Grader, split: type[SplitT]
) -> GradedAnswers[SplitT]:
    grades = iter(grader([asked for one in said for asked in one.asked]))
    return GradedAnswers(
        said=tuple(said),
        grades=tuple(tuple(next(grades) for _ in one.claims) for one in said),
        groups=tuple(question.about for question in questions),
        split=split,
    )


def stage_step(setup: Setup, lm: LanguageModel, folder: Path, stage: str, seed: int, progress: Progress) -> None:
    """Answer, judge and examine one stage: ``STAGE.jsonl`` and ``STAGE.exams.json``; nothing if they are there."""
    path = folder / f"{stage}.jsonl"
    if path.exists() and (folder / f"{stage}.exams.json").exists():
        return
    said = answer_stage(setup, lm, stage, setup.task.held_out, seed, lambda done, of: progress(stage, done, of))
    judged = judge_answers(
        stage,
        seed,
        setup.task.held_out,
        [one.text for one in said],
        splitter=setup.task.splitter,
        grader=setup.grader,
        reader=setup.reader,
        actions=[one.actions for one in said],
    )
    passed = answer_exams(setup, lm, stage, seed)
    write_bytes(folder / f"{stage}.exams.json", _EXAMS.dump_json(passed))
    write_bytes(path, b"".join(_ANSWER.dump_json(answer) + b"\n" for answer in judged))


def seeds_step(settings: ClaimRunSettings, folder: Path, threads: int, progress: Progress) -> None:
    """Train and judge one student per seed."""
    jobs = [SeedJob(run=folder, seed=seed) for seed in settings.seeds]
    last = stages_of(settings, STUDENT_STAGES)[-1]

    def finished() -> int:
        return sum((job.folder / f"{last}.jsonl").exists() for job in jobs)

    def report(_job: int, event: Event) -> None:
        progress(*event)
        progress("students", min(finished(), len(jobs) - 1), len(jobs))

    if finished() < len(jobs):
        progress("students", finished(), len(jobs))
        run_jobs(seed_job, jobs, workers=settings.jobs, threads=threads, progress=report)
    progress("students", len(jobs), len(jobs))


def seed_job(job: SeedJob, tell: Callable[[Event], None]) -> None:
    """Train and judge the student of one seed; in a worker or here."""

    def progress(stage: str, done: int, of: int) -> None:
        tell((f"seed {job.seed}: {stage}", done, of))

    settings = read_claim_run(job.run / "reward.yaml")
    host = Host.load(settings.model, revision=settings.revision)
    setup = load_setup(settings, job.run, host)
    result = policy_step(setup, job, progress)
    student = load_student(host, result.folder)
    for stage in stages_of(settings, STUDENT_STAGES):
        stage_step(setup, student, job.folder, stage, job.seed, progress)


def policy_step(setup: Setup, job: SeedJob, progress: Progress) -> PolicyResult:
    """Train the student of one seed: ``seed-K/policy``."""
    settings, tune = setup.settings, setup.task.tune
    before = _greedy(setup, setup.host, tune, "validation", 0)
    sure = any(question.known for question in tune)
    known = [
        question.id
        for question, answer in zip(tune, before, strict=True)
        if answered(answer) and (question.known or not sure)
    ]
    usual = sum(sum(map(stated, answer.claims)) for answer in before)

    def validate(student: LanguageModel) -> tuple[float, dict[str, float]]:
        after = {answer.id: answer for answer in _greedy(setup, student, tune, "validation", job.seed)}
        claims = sum(sum(map(stated, answer.claims)) for answer in after.values())
        errors = sum(sum(map(wrong, answer.claims)) for answer in after.values())
        figures = {
            "wrong_claims": errors / max(claims, 1),
            "claims": claims / max(usual, 1),
            "known_answered": sum(answered(after[name]) for name in known) / max(len(known), 1),
        }
        lost = max(0.0, KEPT - figures["claims"]) + max(0.0, KEPT - figures["known_answered"])
        return -figures["wrong_claims"] - DEARER * lost, figures

    def report(at: TrainProgress) -> None:
        progress("train", at.step, at.steps)

    whole = {} if settings.concept is None else {"unit": "answer"}  # a tone is that of the whole answer
    reward = FeatureReward(
        reader=setup.reader,
        settings=settings.reward.model_copy(update=whole),
        splitter=setup.task.splitter,
        name=setup.grader.name if settings.concept else "truth",
    )
    return train_policy(
        setup.host,
        [*(question.prompt for question in setup.task.train), *setup.task.anchors],
        [*_FLOATS.validate_json((job.run / "wanted.json").read_bytes()), *(ANCHOR for _ in setup.task.anchors)],
        reward,
        settings.train,
        seed=job.seed,
        folder=job.folder / "policy",
        validate=validate,
        identity={
            "reward": settings.reward.model_dump(mode="json"),
            "probe": hashlib.sha256((job.run / "probe" / "claim_probe.json").read_bytes()).hexdigest(),
        },
        progress=report,
        explore=reward.better_choices,
    )


def _greedy(
    setup: Setup, lm: LanguageModel, questions: Sequence[ClaimQuestion], stage: str, seed: int
) -> tuple[JudgedAnswer, ...]:
    answers = generate(
        lm,
        [question.prompt for question in questions],
        max_new_tokens=setup.settings.train.max_completion_length,
        batch_size=256,
    )
    return judge_answers(stage, seed, questions, answers, splitter=setup.task.splitter, grader=setup.grader)


def table_step(settings: ClaimRunSettings, folder: Path) -> tuple[StageFigures, ...]:
    """``table.json`` (one object per stage and seed), ``summary.json`` (per stage) and the page."""
    results: list[StageResult] = []
    summary: list[StageFigures] = []
    shown: list[JudgedAnswer] = []
    for stage in stages_of(settings, (*HOST_STAGES, *STUDENT_STAGES)):
        rows: list[tuple[JudgedAnswer, ...]] = []
        exams: list[dict[str, list[bool]]] = []
        for seed in settings.seeds:
            place = folder / ("host" if stage in HOST_STAGES else f"seed-{seed}")
            rows.append(_read_answers(place / f"{stage}.jsonl", seed))
            exams.append(_EXAMS.validate_json((place / f"{stage}.exams.json").read_bytes()))
            figures = _figures(rows[-1:], exams[-1:], settings)
            results.append(StageResult(seed=seed, **vars(figures)))
        same = stage in HOST_STAGES  # the host answers once, for every seed
        summary.append(_figures(rows[:1] if same else rows, exams[:1] if same else exams, settings))
        shown += [answer for row in rows for answer in row]
    write_bytes(folder / "table.json", _RESULTS.dump_json(results, indent=1))
    save(tuple(summary), folder / "summary.json")
    page = claims_page(
        results,
        summary,
        shown,
        curves_of(settings, folder),
        title=_title(settings),
        note=f"{settings.model}: {_seeds(settings)}, {len({answer.id for answer in shown})} held-out questions"
        + (f", best of {settings.best_of} in the last stage." if settings.concept is None else "."),
        concept=settings.concept,
    )
    write_bytes(folder / "report.html", page.encode())
    return tuple(summary)


def _title(settings: ClaimRunSettings) -> str:
    what = "Made-up claims" if settings.concept is None else settings.concept.capitalize()
    return f"{what}, before and after"


def _seeds(settings: ClaimRunSettings) -> str:
    return "1 seed" if len(settings.seeds) == 1 else f"{len(settings.seeds)} seeds"


def _figures(
    rows: Sequence[Sequence[JudgedAnswer]], exams: Sequence[dict[str, list[bool]]], settings: ClaimRunSettings
) -> StageFigures:
    def exam(name: str) -> Figure | None:
        from_seeds = [passed[name] for passed in exams if name in passed]
        return clustered_mean([[float(ok) for ok in row] for row in from_seeds]) if from_seeds else None

    return stage_figures(rows, facts=exam("facts"), arithmetic=exam("arithmetic"), threshold=settings.harness.threshold)


def _read_answers(path: Path, seed: int) -> tuple[JudgedAnswer, ...]:
    lines = path.read_bytes().splitlines()
    return tuple(replace(_ANSWER.validate_json(line), seed=seed) for line in lines)


def curves_of(settings: ClaimRunSettings, folder: Path) -> tuple[Curve, ...]:
    """Every term of the reward and every figure of validation, seed by seed."""
    found: list[Curve] = []
    for seed in settings.seeds:
        policy = folder / f"seed-{seed}" / "policy"
        lines, checks = read_metrics(policy / "metrics.jsonl"), read_validations(policy / "validation.jsonl")
        for name in dict.fromkeys(name for line in lines for name in line.terms):
            points = [(line.step, line.terms[name]) for line in lines if name in line.terms]
            found.append(Curve(name=name, steps=tuple(s for s, _ in points), values=tuple(v for _, v in points)))
        for name in dict.fromkeys(name for check in checks for name in check.figures):
            points = [(check.step, check.figures[name]) for check in checks]
            found.append(
                Curve(name=f"validation: {name}", steps=tuple(s for s, _ in points), values=tuple(v for _, v in points))
            )
    return tuple(found)
