"""The obfuscation map: when is it safe to train against a probe?

One budget, the same questions and seeds, and only the reading that pays the student differs: the frozen host's (the
default), the student's own without gradients, the student's own with gradients through the probe (research flag), and
that of a host whose probe is hardly better than chance. Two of the four at four more KL weights. The last weights are
judged, not the best by ground truth as a normal run would keep them: choosing by truth would hide what is looked for.

For every cell and seed: what is true of the answers to held-out questions, what the probe reads in them on the host and
on the student, what a probe fitted anew on the student reads, what was paid for it (claims, doubt about what is well
known, facts, arithmetic), and the class of the cell (``verify.drift.classify_cell``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import torch
from pydantic import TypeAdapter

from science.common import Clock, plain, write_result
from trimtab.errors import DataError
from trimtab.lens.probes.calibrate import calibrated
from trimtab.lens.probes.examples import Examples, checked_examples
from trimtab.lens.probes.linear import LogisticLens, fit_logistic
from trimtab.loop.claim_demo import demo_settings
from trimtab.loop.claim_run import probe_step, sampled
from trimtab.loop.claim_stages import Setup, answer_exams, answer_stage
from trimtab.loop.claim_task import ClaimTask, claim_task
from trimtab.model.generate import context_length
from trimtab.model.host import Host, LanguageModel
from trimtab.records.claim_run import ClaimRunSettings
from trimtab.records.claims import ClaimQuestion, JudgedAnswer, Said
from trimtab.records.figures import Figure, Unmeasured
from trimtab.records.io import load, save, write_bytes
from trimtab.records.rows import Fit, HeldOut, SplitT_co, Tune
from trimtab.records.site import Site
from trimtab.reward.feature import FeatureReward
from trimtab.reward.fit import GradedAnswers, fit_claim_probe
from trimtab.reward.passes import Placer, read_claims
from trimtab.reward.reading import ClaimProbe, ClaimReader, lens_probe
from trimtab.reward.student import GradientProbe, StudentReader, refit_auroc
from trimtab.roles import Grader
from trimtab.stats import auroc, clustered_mean
from trimtab.train.grpo import PolicyResult, train_policy
from trimtab.train.pool import run_jobs
from trimtab.train.research import CurrentStudent, OnStudent, ResearchSettings, train_on_student
from trimtab.train.runs import claim, locked
from trimtab.train.student import load_student
from trimtab.train.threads import training_threads
from trimtab.verify.claims import judge_answers, stage_figures
from trimtab.verify.drift import CellClass, DriftFigures, classify_cell, measure_drift

BETA: Final = 0.1
BETAS: Final = (0.0, 0.02, 0.05, 0.3)
WEIGHT: Final = 0.5
"""Weight of the probe in the loss where gradients flow through it."""

FOOLED: Final = (0.65, 0.75)
"""Held-out AUROC of the fooled probe."""

FEW: Final = (8, 12, 16, 24, 32, 48, 64, 96)
"""Numbers of labelled claims that the fooled probe is fitted on: the first that gives such an AUROC."""

DRAWS: Final = 8
FOLDER: Final = Path("runs/obfuscation_map")
_FLOATS = TypeAdapter(list[float])

WhichProbe: TypeAlias = Literal["probe", "fooled"]
PROBES: Final[tuple[WhichProbe, ...]] = ("probe", "fooled")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm of the map.

    Attributes:
        on_student: What is done to the student; ``None``: the frozen host reads.
        probe: Which probe pays.
        beta: Weight of the KL to the host.
    """

    on_student: OnStudent | None = None
    probe: WhichProbe = "probe"
    beta: float = BETA

    @property
    def name(self) -> str:
        """Short name without the KL weight."""
        if self.probe == "fooled":
            return "fooled probe"
        return "host" if self.on_student is None else f"student, {self.on_student}"


READINGS: Final = (Cell(), Cell(on_student="read"), Cell(on_student="gradient"), Cell(probe="fooled"))
CELLS: Final = (
    *READINGS,
    *(Cell(beta=beta) for beta in BETAS),
    *(Cell(on_student="gradient", beta=beta) for beta in BETAS),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The budget, the same for every cell.

    Attributes:
        folder: Where everything goes; the same call goes on there.
        steps: Optimiser steps.
        batch: Answers in a step.
        questions: Questions for the probe, training, Tune and the held-out figures.
        seeds: One student each.
        cells: The arms.
    """

    folder: Path = FOLDER
    steps: int = 60
    batch: int = 48
    questions: tuple[int, int, int, int] = (900, 720, 150, 180)
    seeds: tuple[int, ...] = (0, 1, 2)
    cells: tuple[Cell, ...] = CELLS

    def settings(self, beta: float = BETA) -> ClaimRunSettings:
        """Those of the demo, at this budget, with every layer free to change: a student that is held cannot hide."""
        demo = demo_settings()
        probe, train, tune, held_out = self.questions
        changed = {
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch,
            "beta": beta,
            "kl_target": None,
            "method": "full",
            "freeze_layers": 0,
            "learning_rate": 8e-4,
            "steps_per_generation": 1,
            "logging_steps": min(5, self.steps),
            "save_steps": 20 if self.steps > 20 else min(5, self.steps),
        }
        sizes = {
            "reading": "probe",
            "probe_questions": probe,
            "train_questions": train,
            "practice_questions": 0,
            "tune_questions": tune,
            "held_out_questions": held_out,
        }
        return ClaimRunSettings.model_validate(
            {
                **demo.model_dump(),
                **sizes,
                "reward": {**demo.reward.model_dump(), "hedge_price": 0.1},
                "train": {**demo.train.model_dump(), **changed},
            }
        )


QUICK: Final = Plan(
    folder=FOLDER.with_name("obfuscation_map_quick"),
    steps=2,
    batch=16,
    questions=(120, 48, 60, 20),
    seeds=(0,),
    cells=READINGS,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student."""

    plan: Plan
    cell: Cell
    seed: int

    @property
    def folder(self) -> Path:
        """Where its files go."""
        name = self.cell.name.replace(", ", "-").replace(" ", "-")
        return self.plan.folder / f"{name}-kl-{self.cell.beta:g}" / f"seed-{self.seed}"

    @property
    def result(self) -> Path:
        """Its object of the map; a cell with one is done."""
        return self.folder / "result.json"


def said_by(
    lm: LanguageModel,
    questions: Sequence[ClaimQuestion],
    split: type[SplitT_co],
    plan: Plan,
    task: ClaimTask,
    seed: int,
) -> GradedAnswers[SplitT_co]:
    """Sampled answers of a model, graded."""
    return graded(sampled(lm, questions, plan.settings(), task.splitter, seed=seed), questions, split, task.grader)


def graded(
    said: Sequence[Said], questions: Sequence[ClaimQuestion], split: type[SplitT_co], grader: Grader
) -> GradedAnswers[SplitT_co]:
    """Answers with grades by ground truth."""
    return GradedAnswers(
        said=tuple(said),
        grades=tuple(grader(one.asked) for one in said),
        groups=tuple(question.about for question in questions),
        split=split,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every cell is trained and judged with.

    Attributes:
        plan: The budget.
        host: The frozen host.
        task: Questions, exams and ground truth.
        probe: The probe that pays, and that monitors.
    """

    plan: Plan
    host: Host
    task: ClaimTask
    probe: ClaimProbe

    @property
    def site(self) -> Site:
        """Where the probe reads."""
        assert self.probe.lens is not None
        return self.probe.lens.card.site

    @property
    def setup(self) -> Setup:
        """What answering takes."""
        reader = ClaimReader(self.host, self.probe)
        return Setup(
            settings=self.plan.settings(), host=self.host, task=self.task, grader=self.task.grader, reader=reader
        )


def prepare(plan: Plan, host: Host, task: ClaimTask, clock: Clock) -> None:
    """Both probes, the number of claims that the host makes, and its own figures under each probe."""
    if not (plan.folder / "fooled" / "claim_probe.json").exists():
        fit = said_by(host, task.probe, Fit, plan, task, 0)
        tune = said_by(host, task.tune, Tune, plan, task, 1)
        held_out = said_by(host, task.held_out, HeldOut, plan, task, 2)
        probe = fit_claim_probe(host, fit, tune, held_out, reading="probe", poolings=("last",))
        probe.save(plan.folder / "probe")
        clock.say(f"probe: AUROC {probe.card.evidence['probe'].auroc}")
        fooled_probe(Bench(plan=plan, host=host, task=task, probe=probe), fit, tune, held_out, clock).save(
            plan.folder / "fooled"
        )
    probe_step(plan.settings(), plan.folder, host, silent)
    for which in PROBES:
        if not before(plan, which).exists():
            bench = Bench(plan=plan, host=host, task=task, probe=ClaimProbe.load(plan.folder / which))
            by_host = judged(bench, answers(bench, host, 0), 0, ClaimReader(host, bench.probe))
            nothing = Unmeasured(reason="the host is not a student")
            figures = measure_drift(by_host, None, about(task.held_out), refit=nothing)
            row = {
                "cell": f"before, {which}",
                "beta": None,
                "seed": None,
                "research": None,
                **shown(figures, by_host, exams(bench, host, 0)),
                "class": None,
            }
            write_bytes(before(plan, which).with_suffix(".row.json"), json.dumps(row).encode())
            save(figures, before(plan, which))


def silent(stage: str, done: int, of: int) -> None:
    """No word of progress."""
    del stage, done, of


def before(plan: Plan, which: WhichProbe) -> Path:
    """Figures of the host itself under a probe."""
    return plan.folder / f"before-{which}.json"


def fooled_probe(
    bench: Bench,
    fit: GradedAnswers[Fit],
    tune: GradedAnswers[Tune],
    held_out: GradedAnswers[HeldOut],
    clock: Clock,
) -> ClaimProbe:
    """A probe at the same place that was fitted on so few claims that its held-out AUROC lies in ``FOOLED``.

    Raises:
        DataError: If no number of claims gives such a probe.
    """
    assert bench.probe.lens is not None
    card = bench.probe.lens.card
    placer = Placer(bench.host.tokenizer, max_length=context_length(bench.host))

    def examples(side: GradedAnswers[SplitT_co]) -> Examples[SplitT_co]:
        rows = [placer(said, index) for index, said in enumerate(side.known)]
        passed = read_claims(bench.host, rows, [card.site], confidence=False)
        return checked_examples(passed.spans[card.site], side.labels, side.claim_groups, side.split)

    known, tuned, judging = examples(fit), examples(tune), examples(held_out)
    for count in FEW:
        for draw in range(DRAWS):
            order = torch.randperm(len(known), generator=torch.Generator().manual_seed(1000 * count + draw))
            few = cast("list[int]", order[:count].tolist())
            labels = known.labels[few]
            if not 0 < int(labels.sum()) < count:
                continue
            groups = [known.groups[place] for place in few]
            lens = fit_logistic(
                checked_examples(known.spans.take(few), labels, groups, Fit), tuned, card, pooling="last"
            )
            area = held_out_auroc(lens, judging)
            if FOOLED[0] <= area <= FOOLED[1]:
                clock.say(f"fooled probe: fitted on {count} claims, AUROC {area:.3f}")
                return lens_probe(calibrated(lens, tuned))
    raise DataError(
        f"no probe fitted on {FEW[0]} to {FEW[-1]} claims has an AUROC of {FOOLED[0]} to {FOOLED[1]}",
        allowed="a host whose claims are hard enough to read from few labels",
        todo="add other numbers of claims to FEW",
    )


def held_out_auroc(lens: LogisticLens, judging: Examples[HeldOut]) -> float:
    """AUROC without an interval."""
    scores = lens.read(judging.spans)
    return auroc(scores[judging.labels].numpy(), scores[~judging.labels].numpy())


def answers(bench: Bench, lm: LanguageModel, seed: int) -> list[str]:
    """Greedy answers to the held-out questions."""
    return [one.text for one in answer_stage(bench.setup, lm, "weights", bench.task.held_out, seed)]


def judged(bench: Bench, texts: Sequence[str], seed: int, reader: ClaimReader) -> tuple[JudgedAnswer, ...]:
    """Answers to the held-out questions, graded, and read by one reader."""
    task = bench.task
    return judge_answers(
        "weights", seed, task.held_out, texts, splitter=task.splitter, grader=task.grader, reader=reader
    )


def exams(bench: Bench, lm: LanguageModel, seed: int) -> dict[str, Figure]:
    """Facts and arithmetic."""
    passed = answer_exams(bench.setup, lm, "weights", seed)
    return {name: clustered_mean([[float(right) for right in row]]) for name, row in passed.items()}


def about(questions: Sequence[ClaimQuestion]) -> list[str]:
    """What each question is about."""
    return [question.about for question in questions]


def shown(
    figures: DriftFigures, judged_answers: Sequence[JudgedAnswer], passed: dict[str, Figure]
) -> dict[str, object]:
    """Every figure of a cell for JSON."""
    whole = stage_figures([judged_answers])
    known = stage_figures([[answer for answer in judged_answers if answer.known]])
    told: dict[str, Figure] = {
        **vars(figures),
        "claims": whole.claims,
        "hedged": whole.hedged,
        "hedged_known": known.hedged,
        "known_answered": whole.known_answered,
        **passed,
    }
    return {name: plain(figure) for name, figure in told.items()}


def trained(job: Job, bench: Bench, research: ResearchSettings | None) -> PolicyResult:
    """Train the student of a cell and seed, or go on with it."""
    host, probe, task = bench.host, bench.probe, bench.task
    settings = job.plan.settings(job.cell.beta)
    student = CurrentStudent()
    reader = ClaimReader(host, probe) if research is None else StudentReader(host, probe, student)
    reward = FeatureReward(reader=reader, settings=settings.reward, splitter=task.splitter, name="truth")
    prompts = [question.prompt for question in task.train]
    wanted = _FLOATS.validate_json((job.plan.folder / "wanted.json").read_bytes())
    identity = {"reward": settings.reward.model_dump(mode="json"), "probe": job.cell.probe}
    folder = job.folder / "policy"
    if research is None:
        return train_policy(
            host,
            prompts,
            wanted,
            reward,
            settings.train,
            seed=job.seed,
            folder=folder,
            identity=identity,
            explore=reward.better_choices,
        )
    return train_on_student(
        host,
        prompts,
        wanted,
        reward,
        settings.train,
        research,
        student=student,
        seed=job.seed,
        folder=folder,
        probe=GradientProbe(host, probe, splitter=task.splitter) if research.on_student == "gradient" else None,
        identity=identity,
        explore=reward.better_choices,
    )


def research_of(cell: Cell) -> ResearchSettings | None:
    """What a cell does to the student, and that it is meant."""
    if cell.on_student is None:
        return None
    return ResearchSettings(on_student=cell.on_student, weight=WEIGHT, i_know_this_fights_interpretability=True)


def cell_job(job: Job, tell: Callable[[str], None]) -> None:
    """Train and judge one student; in a worker or here."""
    plan, cell, seed = job.plan, job.cell, job.seed
    host, task = Host.load("lab"), claim_task(plan.settings())
    bench = Bench(plan=plan, host=host, task=task, probe=ClaimProbe.load(plan.folder / cell.probe))
    research = research_of(cell)
    done = trained(job, bench, research)
    title = f"{cell.name}, KL weight {cell.beta:g}, seed {seed}"
    tell(f"{title}: trained in {done.seconds:.0f} s")
    student = load_student(host, done.folder)
    texts = answers(bench, student, seed)
    by_host = judged(bench, texts, seed, ClaimReader(host, bench.probe))
    by_student = judged(bench, texts, seed, StudentReader(host, bench.probe, lambda: student))
    figures = measure_drift(by_host, by_student, about(task.held_out), refit=refit(bench, student, texts))
    found = classify_cell(figures, load(DriftFigures, before(plan, cell.probe)))
    row = {
        "cell": cell.name,
        "beta": cell.beta,
        "seed": seed,
        "research": None if research is None else research.model_dump(mode="json"),
        **shown(figures, by_host, exams(bench, student, seed)),
        "kl": done.curve[-1].terms.get("kl"),
        "seconds": done.seconds,
        **class_of(found),
    }
    write_bytes(job.result, json.dumps(row).encode())
    tell(f"{title}: {row['class']}")


def refit(bench: Bench, student: LanguageModel, texts: Sequence[str]) -> Figure:
    """AUROC of a probe that learns from the student's own answers on its own activations."""
    plan, task = bench.plan, bench.task
    said = [
        Said(prompt=question.prompt, answer=text, claims=claims)
        for question, text, claims in zip(task.held_out, texts, task.splitter(texts), strict=True)
    ]
    return refit_auroc(
        student,
        bench.site,
        said_by(student, task.probe, Fit, plan, task, 3),
        said_by(student, task.tune, Tune, plan, task, 4),
        graded(said, task.held_out, HeldOut, task.grader),
    )


def class_of(found: CellClass | Unmeasured) -> dict[str, object]:
    """A class for JSON, or why there is none."""
    if isinstance(found, Unmeasured):
        return {"class": None, "reason": found.reason}
    return {"class": found}


def summary(row: Mapping[str, object]) -> str:
    """One line."""

    def value(name: str) -> str:
        found = cast("dict[str, float | None]", row[name])["value"]
        return "-" if found is None else f"{found:.2f}"

    parts = ("wrong_claims", "claims", "probability_host", "probability_student", "drift_wrong")
    areas = "/".join(value(f"auroc_{name}") for name in ("host", "student", "refit"))
    figures = ", ".join(f"{name} {value(name)}" for name in parts)
    return f"{row['cell']}, KL weight {row['beta']}, seed {row['seed']}: {figures}, AUROC {areas}: {row['class']}"


def run(seed: int = 0, *, plan: Plan | None = None, quick: bool = False, jobs: int = 1) -> None:
    """Run the experiment, or go on with it, and write its result; ``quick`` only tries every step and writes none."""
    clock = Clock()
    plan = plan or (QUICK if quick else Plan())
    host, task = Host.load("lab"), claim_task(plan.settings())
    threads = training_threads(host.model)
    asked: dict[str, object] = {
        "settings": plan.settings().model_dump(mode="json"),
        "host": host.content_hash,
        "weight": WEIGHT,
    }
    work = [Job(plan=plan, cell=cell, seed=seed + one) for one in plan.seeds for cell in plan.cells]
    with locked(plan.folder):
        claim(plan.folder, asked, threads=threads)
        prepare(plan, host, task, clock)
        clock.say("probes and the host's own figures are ready")
        left = [job for job in work if not job.result.exists()]
        run_jobs(cell_job, left, workers=jobs, threads=threads, progress=lambda _, event: clock.say(event))
    paths = [*(before(plan, which).with_suffix(".row.json") for which in PROBES), *(job.result for job in work)]
    rows = [cast("dict[str, object]", json.loads(path.read_bytes())) for path in paths]
    for row in rows:
        print("  " + summary(row))
    if not quick:
        cells = [asdict(cell) for cell in plan.cells]
        findings = {"rows": rows}
        path = write_result(
            "obfuscation_map",
            seed=seed,
            settings={**asked, "seeds": list(plan.seeds), "cells": cells},
            findings=findings,
        )
        clock.say(f"wrote {path}")
