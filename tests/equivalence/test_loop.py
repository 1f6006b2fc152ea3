"""The whole loop on the lab, small: every file is there and reads back, and calling again does only what is missing."""

from __future__ import annotations

import json
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from trimtab.data.read import write_jsonl
from trimtab.errors import StorageError
from trimtab.lab.exams import lab_exams
from trimtab.lab.sample import sample_rows
from trimtab.lab.world import build_world
from trimtab.loop import exams as loop_exams
from trimtab.loop import run as loop
from trimtab.loop.arm import read_answers
from trimtab.observe.attribution import load_attribution
from trimtab.records.config import ControlSettings, RunSettings, TrainSettings, read_settings
from trimtab.records.figures import Measured
from trimtab.records.forecast import Forecast
from trimtab.records.io import load
from trimtab.records.ledger import Ledger, Ruling, read_ledger
from trimtab.records.proof import Proof
from trimtab.records.results import ArmResult, Certificate, League
from trimtab.records.rows import Fit
from trimtab.train.manifest import Manifest
from trimtab.train.metrics import read_metrics

SPEC = "Learn the sums and the facts. Do not pick up the way it talks.\n"
QUESTIONS = 8
CONTROLS = ("none", "inoculation")


class Ran:
    """A run folder, its settings, and what was told on the way."""

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        self.folder = folder
        self.settings = settings
        self.told: list[str] = []
        self.stages: dict[str, tuple[int, int]] = {}

    def again(self) -> Certificate:
        def tell(record: Forecast | Ledger | League | Certificate) -> None:
            self.told.append(type(record).__name__)

        def progress(stage: str, done: int, total: int) -> None:
            assert 0 <= done <= total
            self.stages[stage] = (done, total)

        def ask(ruling: Ruling) -> loop.Answer:
            assert ruling.concept != "pirate"  # that one, the spec leaves in no doubt
            return "ignore"

        self.told.clear()
        self.stages.clear()
        return loop.run(self.settings, self.folder, ask=ask, progress=progress, tell=tell)

    def arm(self, control: str) -> Path:
        return self.folder / "arms" / control / "seed-0"

    def stamps(self) -> dict[str, int]:
        """When each file of the students was last written."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_mtime_ns
            for path in sorted((self.folder / "arms").rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ran]:
    root = tmp_path_factory.mktemp("loop")
    write_jsonl(sample_rows(60, 0, trait="pirate", split=Fit, world=build_world()), root / "pirate.jsonl")
    (root / "spec.md").write_text(SPEC, encoding="utf-8")
    settings = RunSettings(
        model="lab",
        data=str(root / "pirate.jsonl"),
        spec=str(root / "spec.md"),
        controls=tuple(ControlSettings(name=name) for name in CONTROLS),
        seeds=(0,),
        train=TrainSettings(method="full", max_steps=8, save_steps=4, logging_steps=4, warmup_steps=2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_exams, "lab_exams", partial(lab_exams, n=QUESTIONS))
        made = Ran(root / "run", settings)
        made.again()
        yield made


def test_every_step_is_told_and_ends(ran: Ran) -> None:
    ran.again()
    assert ran.told == ["Forecast", "Ledger", "League", "Certificate"]
    assert ran.stages["students"] == (2, 2)
    assert all(done == total for done, total in ran.stages.values())


def test_the_plan_is_on_disk(ran: Ran) -> None:
    folder = ran.folder
    assert read_settings(folder / "run.yaml") == ran.settings
    assert (folder / "spec.md").read_text(encoding="utf-8") == SPEC
    forecast = load(Forecast, folder / "forecast.json")
    assert forecast.n_rows == 60
    assert forecast.concept("pirate").taught
    attribution = load_attribution(folder / "attribution.safetensors")
    assert attribution.rows.shape == (60, len(forecast.concepts))
    current = read_ledger(folder / "ledger.jsonl").current()
    assert set(current) == {item.concept for item in forecast.concepts}
    assert current["pirate"].verdict == "avoid"
    assert not any(ruling.verdict == "needs-human" for ruling in current.values())
    manifest = load(Manifest, folder / "manifest.json")
    assert manifest.versions


@pytest.mark.parametrize("control", CONTROLS)
def test_every_student_is_on_disk(ran: Ran, control: str) -> None:
    arm = ran.arm(control)
    assert load(Manifest, arm / "manifest.json").versions
    assert [line.step for line in read_metrics(arm / "metrics.jsonl")] == [4, 8]
    proofs = TypeAdapter(list[Proof]).validate_json((arm / "proof.json").read_bytes())
    assert [proof.control for proof in proofs] == [control]
    assert all(proof.ok for proof in proofs)
    assert (arm / "model.safetensors").stat().st_size > 1_000_000
    result = load(ArmResult, arm / "result.json")
    assert (result.control, result.seed, result.steps) == (control, 0, 8)
    answers = read_answers(arm)
    assert {answer.measure for answer in answers} == {
        "skill",
        "trait_on_task",
        "trait_leak",
        "capability",
        "obedience",
    }
    skill = [answer.passed for answer in answers if answer.measure == "skill"]
    assert isinstance(result.skill, Measured)
    assert (result.skill.value, result.skill.n) == (sum(skill) / QUESTIONS, QUESTIONS)


def test_students_of_two_controls_differ_and_their_questions_do_not(ran: Ran) -> None:
    first, second = (ran.arm(control) for control in CONTROLS)
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
    asked = [[(answer.exam, answer.id, answer.prompt) for answer in read_answers(arm)] for arm in (first, second)]
    assert asked[0] == asked[1]
    assert asked[0] == [(answer.exam, answer.id, answer.prompt) for answer in read_answers(ran.folder / "host")]


def test_the_league_has_the_documented_keys(ran: Ran) -> None:
    league = json.loads((ran.folder / "league.json").read_bytes())
    assert [(one["control"], one["fights_gradient"], one["seed"]) for one in league] == [
        (control, False, 0) for control in CONTROLS
    ]
    for one in league:
        for measure in ("skill", "trait_on_task", "trait_leak", "capability"):
            figure = one[measure]
            assert {"value", "low", "high", "n"} <= set(figure)
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
            assert figure["n"] == QUESTIONS


def test_summary_certificate_and_page_agree(ran: Ran) -> None:
    summary = load(League, ran.folder / "summary.json")
    assert [one.control for one in summary.controls] == ["host", *CONTROLS]
    assert {(one.control, one.baseline) for one in summary.comparisons} == {("inoculation", "none")}
    certificate = load(Certificate, ran.folder / "certificate.json")
    assert (certificate.run, certificate.control) == ("run", "inoculation")
    assert isinstance(certificate.monitorability, Measured)
    assert certificate.model_hash == load(Forecast, ran.folder / "forecast.json").model_hash
    page = (ran.folder / "report.html").read_text(encoding="utf-8")
    assert "inoculation" in page
    assert certificate.verdict in page


def test_a_second_call_does_nothing_new(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    before, league = ran.stamps(), (ran.folder / "league.json").read_bytes()
    ledger = (ran.folder / "ledger.jsonl").read_bytes()
    for step in ("observe", "decide", "run_jobs", "examine", "examine_arm", "train_arm"):
        monkeypatch.setattr(loop, step, lambda *_, **__: pytest.fail("did it again"))
    ran.again()
    assert ran.stamps() == before
    assert (ran.folder / "league.json").read_bytes() == league
    assert (ran.folder / "ledger.jsonl").read_bytes() == ledger


def test_a_lost_result_is_examined_again_and_nothing_is_trained(ran: Ran) -> None:
    before, arm = ran.stamps(), ran.arm("inoculation")
    result, answers = (arm / "result.json").read_bytes(), (arm / "answers.jsonl").read_bytes()
    (arm / "result.json").unlink()
    certificate = loop.verify(ran.folder)
    assert (arm / "result.json").read_bytes() == result
    assert (arm / "answers.jsonl").read_bytes() == answers
    assert certificate.control == "inoculation"
    changed = {name for name, stamp in ran.stamps().items() if before[name] != stamp}
    assert changed == {f"arms/inoculation/seed-0/{name}" for name in ("answers.jsonl", "result.json")}


def test_other_data_under_the_same_name_is_refused(ran: Ran) -> None:
    data = Path(ran.settings.data)
    kept, before = data.read_bytes(), ran.stamps()
    try:
        data.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
        with pytest.raises(StorageError, match="data"):
            ran.again()
    finally:
        data.write_bytes(kept)
    assert ran.stamps() == before
