"""One arm of a run: one control set, one seed. Trained, examined, written down."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from trimtab.control.build import build
from trimtab.control.material import Material
from trimtab.control.prove import prove
from trimtab.data.template import training_rows
from trimtab.errors import StorageError
from trimtab.loop.exams import exams_of
from trimtab.loop.prepare import Prepared, Progress, prepare_folder
from trimtab.model.host import LanguageModel
from trimtab.observe.attribution import load_attribution
from trimtab.records.config import ControlSettings
from trimtab.records.forecast import Forecast
from trimtab.records.io import load, save, write_bytes
from trimtab.records.ledger import read_ledger
from trimtab.records.results import Answer, ArmResult
from trimtab.roles import Control
from trimtab.train.sft import TrainResult, train_student
from trimtab.train.student import load_student
from trimtab.verify.ask import ask, perplexity
from trimtab.verify.score import arm_result

HOST = "host"


@dataclass(frozen=True, kw_only=True)
class ArmJob:
    """What a worker needs to know: everything else lies in the run folder."""

    run: Path
    control: ControlSettings
    seed: int

    @property
    def folder(self) -> Path:
        """Where the arm's files go."""
        return arm_folder(self.run, self.control.title, self.seed)


Event: TypeAlias = tuple[str, int, int]
"""Stage, steps done, steps in all: what a worker tells its parent."""


def arm_folder(run: Path, control: str, seed: int) -> Path:
    """Folder of one arm."""
    return run / "arms" / re.sub(r"[^\w.+-]", "_", control) / f"seed-{seed}"


def controls_of(run: Path, prepared: Prepared, settings: ControlSettings, seed: int) -> tuple[Control, ...]:
    """Build a control set from what earlier steps left in the run folder."""
    return build(
        settings,
        Material(
            bank=prepared.bank,
            ledger=read_ledger(run / "ledger.jsonl"),
            attribution=load_attribution(run / "attribution.safetensors"),
            clean_rows=prepared.bank.card.neutral_rows,
            seed=seed,
            forecast=load(Forecast, run / "forecast.json"),
            tokenizer=prepared.host.tokenizer,
        ),
    )


def train_arm(job: ArmJob, progress: Progress) -> TrainResult:
    """Train one student, or go on where it was interrupted; a finished student is not trained again."""
    prepared = prepare_folder(job.run)
    controls = controls_of(job.run, prepared, job.control, job.seed)
    if not (job.folder / "proof.json").exists():
        turns, longest = training_rows(prepared.rows), prepared.settings.train.max_length
        proofs = [prove(control, prepared.host, turns, max_length=longest) for control in controls]
        write_bytes(job.folder / "proof.json", TypeAdapter(list[object]).dump_json(list(proofs), indent=1))
    name = f"train {job.control.title}, seed {job.seed}"
    return train_student(
        prepared.host,
        prepared.rows,
        controls,
        prepared.settings.train,
        seed=job.seed,
        folder=job.folder,
        identity={
            "control": job.control.model_dump(mode="json"),
            "rulings": {
                name: ruling.verdict for name, ruling in read_ledger(job.run / "ledger.jsonl").current().items()
            },
            "bank": prepared.bank_hash,
        },
        progress=lambda now: progress(name, now.step, now.steps),
    )


def examine_arm(job: ArmJob, trained: TrainResult, progress: Progress) -> None:
    """Ask a trained student the exams; answers and figures go into its folder."""
    prepared = prepare_folder(job.run)
    controls = controls_of(job.run, prepared, job.control, job.seed)
    student = load_student(prepared.host, job.folder)
    examine(
        prepared,
        student,
        job.run,
        job.folder,
        control=job.control.title,
        fights_gradient=any(control.fights_gradient for control in controls),
        seed=job.seed,
        trained=trained,
        progress=progress,
    )


def only_train(job: ArmJob, tell: Callable[[Event], None]) -> None:
    """Train one arm, in a worker."""
    train_arm(job, lambda stage, done, total: tell((stage, done, total)))


def run_arm(job: ArmJob, tell: Callable[[Event], None]) -> None:
    """Train and examine one arm, in a worker; what is already on disk is kept."""

    def progress(stage: str, done: int, total: int) -> None:
        tell((stage, done, total))

    trained = train_arm(job, progress)
    if not (job.folder / "result.json").exists():
        examine_arm(job, trained, progress)


def avoided_of(run: Path, prepared: Prepared) -> tuple[str, ...]:
    """Concepts that the ledger avoids and the data teaches; all that it avoids where the data teaches none."""
    named = [
        r.concept for r in read_ledger(run / "ledger.jsonl").with_verdict("avoid") if r.concept in prepared.bank.names
    ]
    taught = {item.concept for item in load(Forecast, run / "forecast.json").concepts if item.taught}
    return tuple(name for name in named if name in taught) or tuple(named)


def examine(
    prepared: Prepared,
    lm: LanguageModel,
    run: Path,
    folder: Path,
    *,
    control: str,
    fights_gradient: bool,
    seed: int,
    trained: TrainResult | None,
    progress: Progress,
) -> ArmResult:
    """Examine any model of a run and write ``answers.jsonl``, then ``result.json``."""
    exams = exams_of(prepared, avoided_of(run, prepared))
    name = f"examine {control}" + ("" if control == HOST else f", seed {seed}")
    answers = ask(lm, exams, progress=lambda done, count: progress(name, done, count))
    result = arm_result(
        answers,
        control=control,
        fights_gradient=fights_gradient,
        seed=seed,
        steps=trained.steps if trained else 0,
        train_seconds=trained.seconds if trained else 0.0,
        perplexity=perplexity(lm, exams),
    )
    adapter = TypeAdapter(Answer)
    write_bytes(folder / "answers.jsonl", b"".join(adapter.dump_json(answer) + b"\n" for answer in answers))
    save(result, folder / "result.json")
    return result


def read_answers(folder: Path) -> tuple[Answer, ...]:
    """Answers of an examined arm.

    Raises:
        StorageError: If the file is missing or damaged.
    """
    path = folder / "answers.jsonl"
    adapter = TypeAdapter(Answer)
    try:
        return tuple(adapter.validate_json(line) for line in path.read_bytes().splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot read {path}: {error}",
            allowed="the answers of an examined arm",
            todo="remove the arm's result.json and run the same command again",
        ) from error


def finished(folders: Sequence[Path]) -> list[ArmResult]:
    """Results of the arms that are examined, in the given order."""
    return [load(ArmResult, folder / "result.json") for folder in folders if (folder / "result.json").exists()]
