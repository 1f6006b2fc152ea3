"""The whole loop for one run: observe, decide, control and train, verify, report. Each step leaves its files.

Every step looks at the run folder first and does only what is missing, so the same call resumes a run that was
interrupted anywhere, and a finished run is read back at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from trimtab.control.choose import choose
from trimtab.decide.human import Answer, refuse_to_guess, undecided, with_human_answer
from trimtab.decide.rule import check_unexplained, decide
from trimtab.decide.spec import read_spec
from trimtab.errors import StorageError
from trimtab.lens.embed import sentence_embedder
from trimtab.loop.arm import (
    HOST,
    ArmJob,
    Event,
    avoided_of,
    examine,
    examine_arm,
    finished,
    only_train,
    read_answers,
    run_arm,
    train_arm,
)
from trimtab.loop.exams import exams_of
from trimtab.loop.prepare import Prepared, Progress, forget, prepare, prepare_folder, read_file
from trimtab.observe.attribution import load_attribution, save_attribution
from trimtab.observe.forecast import ForecastSettings, observe
from trimtab.records.config import ControlSettings, RunSettings
from trimtab.records.figures import Unmeasured
from trimtab.records.forecast import Forecast
from trimtab.records.io import load, save, write_bytes
from trimtab.records.ledger import Ledger, Ruling, append_rulings, read_ledger
from trimtab.records.results import ArmResult, Certificate, League
from trimtab.records.training import Attribution
from trimtab.report.page import render
from trimtab.train.manifest import library_versions
from trimtab.train.pool import run_jobs
from trimtab.train.runs import locked
from trimtab.train.runs import open_run as open_run_folder
from trimtab.train.student import load_student
from trimtab.train.threads import fixed_threads, training_threads
from trimtab.verify.certify import best_control, certify
from trimtab.verify.readable import Readable, readable
from trimtab.verify.score import BASELINE, ArmAnswers, league

AskHuman: TypeAlias = Callable[[Ruling], Answer]
"""Given a ruling that needs a human: ``learn``, ``avoid`` or ``ignore``."""

Tell: TypeAlias = Callable[[Forecast | Ledger | League | Certificate], None]
"""Told of each record as it is ready."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Progress that goes nowhere."""


def unheard(_record: Forecast | Ledger | League | Certificate) -> None:
    """Records that nobody waits for."""


def run(
    settings: RunSettings,
    folder: Path,
    *,
    ask: AskHuman | None = None,
    progress: Progress = silent,
    tell: Tell = unheard,
) -> Certificate:
    """The whole loop. Call it again with the same arguments to resume.

    Args:
        settings: The run's settings.
        folder: The run folder.
        ask: Asked where a ruling needs a human; ``None`` refuses to guess.
        progress: Told of every step.
        tell: Told of every record that is ready.

    Raises:
        TrimtabError: Whatever a step raises; what earlier steps wrote stays on disk.
    """
    with opened(settings, folder, progress) as prepared:
        plan_step(folder, prepared, ask=ask, progress=progress, tell=tell)
        train_step(folder, prepared, progress)
        return verify_step(folder, prepared, progress, tell)


def train(
    settings: RunSettings,
    folder: Path,
    *,
    ask: AskHuman | None = None,
    progress: Progress = silent,
    tell: Tell = unheard,
) -> None:
    """The loop up to trained students: ``verify`` examines them. Arguments and errors are those of ``run``."""
    with opened(settings, folder, progress) as prepared:
        plan_step(folder, prepared, ask=ask, progress=progress, tell=tell)
        train_step(folder, prepared, progress, examined=False)
        render(folder)


def verify(folder: Path, *, progress: Progress = silent, tell: Tell = unheard) -> Certificate:
    """Examine the students of a run folder and certify the best control.

    Raises:
        TrimtabError: Whatever a step raises; what earlier steps wrote stays on disk.
    """
    if not (folder / "ledger.jsonl").exists():
        raise StorageError(
            f"{folder} holds no planned run",
            allowed="a run folder made by `trimtab train` or `trimtab run`",
            todo="train first: `trimtab train run.yaml`",
        )
    forget()
    with locked(folder):
        prepared = prepare_folder(folder.resolve())
        with fixed_threads(training_threads(prepared.host.model)):
            return verify_step(folder, prepared, progress, tell)


@contextmanager
def opened(settings: RunSettings, folder: Path, progress: Progress) -> Generator[Prepared]:
    """Load a run's inputs and hold its folder, new or begun with the same settings and material.

    Raises:
        TrimtabError: If an input cannot be loaded or the folder cannot be used; nothing has been trained then.
    """
    progress("load host, bank and rows", 0, 1)
    forget()
    read_spec(settings.spec)
    prepared = prepare(settings)
    progress("load host, bank and rows", 1, 1)
    threads = training_threads(prepared.host.model)
    with fixed_threads(threads), open_run_folder(folder, settings, material=prepared.material, threads=threads):
        write_bytes(folder / "spec.md", read_file(Path(settings.spec)))
        yield prepared


def plan_step(
    folder: Path, prepared: Prepared, *, ask: AskHuman | None, progress: Progress, tell: Tell = unheard
) -> Ledger:
    """Observe and decide: ``forecast.json``, ``attribution.safetensors``, ``ledger.jsonl``."""
    forecast = observe_step(folder, prepared, progress)
    tell(forecast)
    ledger = decide_step(folder, prepared, forecast, ask)
    tell(ledger)
    return ledger


def observe_step(folder: Path, prepared: Prepared, progress: Progress = silent) -> Forecast:
    """Forecast the run's rows: ``forecast.json`` and ``attribution.safetensors``."""
    path = folder / "forecast.json"
    if not (path.exists() and (folder / "attribution.safetensors").exists()):
        settings = ForecastSettings(max_length=prepared.settings.train.max_length)
        seen = observe(prepared.host, prepared.rows, bank=prepared.bank, settings=settings, progress=progress)
        save_attribution(seen.attribution, folder / "attribution.safetensors")
        save(seen.forecast, path)
    return load(Forecast, path)


def decide_step(folder: Path, prepared: Prepared, forecast: Forecast, ask: AskHuman | None = None) -> Ledger:
    """Rule on every concept: ``ledger.jsonl``. Rulings on record stay, missing ones are added, open ones asked again.

    Raises:
        NeedsHumanError: If a ruling is too close to call and ``ask`` is ``None``.
        ProtectedConceptError: If the spec asks to train on a protected concept.
    """
    path = folder / "ledger.jsonl"
    spec = read_spec(prepared.settings.spec)
    check_unexplained(forecast, spec)
    on_record = set(read_ledger(path).current()) if path.exists() else set[str]()
    if not on_record.issuperset(concept.concept for concept in forecast.concepts):
        made = decide(forecast, spec, sentence_embedder()).rulings
        append_rulings(path, [ruling for ruling in made if ruling.concept not in on_record])
    ledger = read_ledger(path)
    if ask is None:
        refuse_to_guess(ledger)
        return ledger
    for ruling in undecided(ledger):
        append_rulings(path, [with_human_answer(ruling, ask(ruling))])
    return read_ledger(path)


def control_sets(
    prepared: Prepared, ledger: Ledger, forecast: Forecast, attribution: Attribution
) -> tuple[ControlSettings, ...]:
    """The control sets to train: those of ``run.yaml``, or chosen from the ledger."""
    chosen = prepared.settings.controls
    if chosen == "auto":
        return tuple(choice.settings for choice in choose(ledger, forecast, attribution))
    return chosen


def jobs_of(folder: Path, prepared: Prepared) -> list[ArmJob]:
    """One job per control set and seed, seeds outermost, so that an interrupted run has whole rounds."""
    ledger, forecast = read_ledger(folder / "ledger.jsonl"), load(Forecast, folder / "forecast.json")
    sets = control_sets(prepared, ledger, forecast, load_attribution(folder / "attribution.safetensors"))
    return [
        ArmJob(run=folder.resolve(), control=control, seed=seed) for seed in prepared.settings.seeds for control in sets
    ]


def train_step(folder: Path, prepared: Prepared, progress: Progress = silent, *, examined: bool = True) -> None:
    """Train (and examine) every arm that is not finished."""
    jobs = jobs_of(folder, prepared)
    last = "result.json" if examined else "done.json"

    def finished_jobs() -> int:
        return sum((job.folder / last).exists() for job in jobs)

    def report(_job: int, event: Event) -> None:
        progress(*event)
        progress("students", min(finished_jobs(), len(jobs) - 1), len(jobs))

    if finished_jobs() < len(jobs):
        progress("students", finished_jobs(), len(jobs))
        run_jobs(
            run_arm if examined else only_train,
            jobs,
            workers=prepared.settings.jobs,
            threads=training_threads(prepared.host.model),
            progress=report,
        )
    progress("students", len(jobs), len(jobs))


def verify_step(folder: Path, prepared: Prepared, progress: Progress = silent, tell: Tell = unheard) -> Certificate:
    """Examine what is not examined yet; write ``league.json``, ``summary.json``, ``certificate.json`` and the page."""
    if not (folder / "host" / "result.json").exists():
        examine(
            prepared,
            prepared.host,
            folder,
            folder / "host",
            control=HOST,
            fights_gradient=False,
            seed=0,
            trained=None,
            progress=progress,
        )
    jobs = jobs_of(folder, prepared)
    for job in jobs:
        if not (job.folder / "result.json").exists():
            examine_arm(job, train_arm(job, progress), progress)
    arms = finished([folder / "host", *(job.folder for job in jobs)])
    answers = {(HOST, 0): read_answers(folder / "host")}
    answers |= {(job.control.title, job.seed): read_answers(job.folder) for job in jobs}
    table = league(arms, answers)
    students = [arm for arm in arms if arm.control != HOST]
    write_bytes(folder / "league.json", TypeAdapter(list[ArmResult]).dump_json(students, indent=1))
    save(table, folder / "summary.json")
    tell(table)
    certificate = certify_step(folder, prepared, table, answers, progress)
    tell(certificate)
    render(folder)
    return certificate


def certify_step(
    folder: Path, prepared: Prepared, table: League, answers: ArmAnswers, progress: Progress
) -> Certificate:
    """Certify the best control of a league, or for want of one no control: ``certificate.json``."""
    trained = [summary.control for summary in table.controls if summary.control != HOST]
    chosen = best_control(table) or (BASELINE if BASELINE in trained else trained[0])
    progress("read the students", 0, 1)
    certificate = certify(
        run=folder.resolve().name,
        control=chosen,
        league=table,
        answers=answers,
        readings=_readings(folder, prepared, [job for job in jobs_of(folder, prepared) if job.control.title == chosen]),
        model_hash=prepared.host.content_hash,
        versions=library_versions(),
    )
    save(certificate, folder / "certificate.json")
    progress("read the students", 1, 1)
    return certificate


def _readings(folder: Path, prepared: Prepared, jobs: list[ArmJob]) -> list[Readable] | Unmeasured:
    """Readability of every avoided concept on every student of the certified control; the worst counts."""
    avoided = avoided_of(folder, prepared)
    if not avoided:
        return Unmeasured(reason="the ledger avoids no concept, so no monitor was at stake")
    exam = next((e for e in exams_of(prepared, avoided) if e.measure == "capability"), None)
    if exam is None:
        return Unmeasured(reason="there are no held-out questions to read the student on")
    found: list[Readable] = []
    for job in jobs:
        student = load_student(prepared.host, job.folder)
        found.extend(readable(prepared.host, student, prepared.bank, avoided, exam.rows))
    return found
