"""Single steps of the loop on a tiny host: what is on disk is kept, what is missing is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from answer_sheets import answers, arm
from control_world import attribution as attribution_of
from control_world import bank, chat, forecast, host, rows
from trimtab.errors import NeedsHumanError, ProtectedConceptError, StorageError, UsageError
from trimtab.lab.world import build_world
from trimtab.loop import prepare as inputs
from trimtab.loop import run as loop
from trimtab.loop.arm import ArmJob, arm_folder, avoided_of, finished, read_answers
from trimtab.loop.exams import exams_of
from trimtab.loop.prepare import Prepared, prepare, prepare_folder
from trimtab.observe.attribution import load_attribution, save_attribution
from trimtab.records.config import ControlSettings, RunSettings, write_settings
from trimtab.records.forecast import Forecast
from trimtab.records.io import save, write_bytes
from trimtab.records.ledger import Ruling, append_rulings
from trimtab.records.results import Answer
from trimtab.records.rows import ChatRow, Fit, HeldOut, Rows

NO_ROWS: Rows[ChatRow, HeldOut] = Rows(items=(), split=HeldOut, source="none")
OWN_ROWS: Rows[ChatRow, HeldOut] = Rows(items=({"messages": chat("1+1?", "2")},), split=HeldOut, source="mine")


def ruling(concept: str, verdict: str = "avoid") -> Ruling:
    return replace(Ruling(concept=concept, verdict="avoid", reason="a test", by="rule"), verdict=verdict)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Inputs of a run with a spec, as ``prepare`` would load them."""

    def make(
        spec: str, *, held_out: Rows[ChatRow, HeldOut] = NO_ROWS, lab: bool = False, skills: tuple[str, ...] = ()
    ) -> Prepared:
        (tmp_path / "spec.md").write_text(spec, encoding="utf-8")
        given: Rows[ChatRow, Fit] = Rows(
            items=tuple({"messages": list(row.messages)} for row in rows()), split=Fit, source="d"
        )
        return Prepared(
            settings=RunSettings(model="tiny", data="d", spec=str(tmp_path / "spec.md"), bank="b", seeds=(0, 4)),
            host=host(),
            bank=bank(),
            rows=given,
            held_out=held_out,
            world=build_world() if lab else None,
            skills=skills,
        )

    return make


RULES = "---\nrules: {pirate: avoid, sums: learn}\n---\n"


def test_every_control_set_and_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    assert arm_folder(tmp_path, "a+b", 3) == tmp_path / "arms" / "a+b" / "seed-3"
    assert arm_folder(tmp_path, "../../strong (x2)", 0).parent.parent == tmp_path / "arms"
    job = ArmJob(run=tmp_path, control=ControlSettings(name="none", label="plain"), seed=1)
    assert job.folder == tmp_path / "arms" / "plain" / "seed-1"


def test_deciding_twice_adds_nothing(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    made = forecast(pirate=True, sums=True, cheerful=False)
    inputs = prepared("---\nrules: {pirate: avoid, sums: learn, cheerful: ignore}\n---\n")
    first = loop.decide_step(tmp_path, inputs, made)
    written = (tmp_path / "ledger.jsonl").read_bytes()
    assert {name: r.verdict for name, r in first.current().items()} == {
        "pirate": "avoid",
        "sums": "learn",
        "cheerful": "ignore",
    }
    assert loop.decide_step(tmp_path, inputs, made) == first
    assert (tmp_path / "ledger.jsonl").read_bytes() == written


def test_a_ledger_that_a_kill_cut_short_is_completed(tmp_path: Path, prepared: Callable[..., Prepared]) -> None:
    append_rulings(tmp_path / "ledger.jsonl", [replace(ruling("pirate", "learn"), by="human")])
    ledger = loop.decide_step(tmp_path, prepared(RULES), forecast(pirate=True, sums=True))
    assert [(r.concept, r.verdict, r.by) for r in ledger.rulings] == [
        ("pirate", "learn", "human"),  # on record: it stays, whatever the spec says
        ("sums", "learn", "rule"),
    ]


def test_open_rulings_are_asked_each_once_and_the_answers_stay(
    tmp_path: Path, prepared: Callable[..., Prepared]
) -> None:
    made, inputs = forecast(pirate=True, sums=True, cheerful=True), prepared(RULES)
    with pytest.raises(NeedsHumanError, match="cheerful"):
        loop.decide_step(tmp_path, inputs, made)
    asked: list[str] = []

    def ask(open_ruling: Ruling) -> str:
        asked.append(open_ruling.concept)
        return "avoid"

    ledger = loop.decide_step(tmp_path, inputs, made, ask)
    assert asked == ["cheerful"]
    assert ledger.current()["cheerful"].by == "human"
    assert loop.decide_step(tmp_path, inputs, made).current()["cheerful"].verdict == "avoid"
    assert len(ledger.rulings) == 4  # append-only: the open ruling is still on record


def test_a_protected_concept_stops_the_run_before_anything_is_ruled(
    tmp_path: Path, prepared: Callable[..., Prepared]
) -> None:
    with pytest.raises(ProtectedConceptError, match="allow_protected"):
        loop.decide_step(tmp_path, prepared("---\nrules: {sandbagging: avoid}\n---\n"), forecast(pirate=True))
    assert not (tmp_path / "ledger.jsonl").exists()


def planned(run: Path, made: Forecast, *rulings: Ruling) -> None:
    save(made, run / "forecast.json")
    append_rulings(run / "ledger.jsonl", rulings)
    save_attribution(attribution_of(rows()), run / "attribution.safetensors")


def test_what_is_avoided_is_what_the_data_teaches_and_the_bank_reads(
    tmp_path: Path, prepared: Callable[..., Prepared]
) -> None:
    planned(tmp_path, forecast(pirate=True, cheerful=False), ruling("pirate"), ruling("cheerful"), ruling("zan"))
    assert avoided_of(tmp_path, prepared(RULES)) == ("pirate",)


def test_where_the_data_teaches_none_of_it_all_of_it_is_watched(
    tmp_path: Path, prepared: Callable[..., Prepared]
) -> None:
    planned(tmp_path, forecast(pirate=False, cheerful=False), ruling("pirate"), ruling("cheerful"))
    assert avoided_of(tmp_path, prepared(RULES)) == ("pirate", "cheerful")


def test_there_is_one_job_per_control_and_seed_in_whole_rounds(
    tmp_path: Path, prepared: Callable[..., Prepared]
) -> None:
    planned(tmp_path, forecast(pirate=True), ruling("pirate"))
    inputs = prepared(RULES)
    named = replace(
        inputs,
        settings=inputs.settings.model_copy(
            update={"controls": (ControlSettings(name="none"), ControlSettings(name="inoculation", label="asked"))}
        ),
    )
    assert [(job.control.title, job.seed) for job in loop.jobs_of(tmp_path, named)] == [
        ("none", 0),
        ("asked", 0),
        ("none", 4),
        ("asked", 4),
    ]
    chosen = {job.control.name for job in loop.jobs_of(tmp_path, inputs)}
    assert "none" in chosen  # whatever is chosen is compared with no control
    assert len(chosen) > 1


def test_the_attribution_that_the_controls_get_is_the_one_that_was_made(tmp_path: Path) -> None:
    planned(tmp_path, forecast(pirate=True))
    found, made = load_attribution(tmp_path / "attribution.safetensors"), attribution_of(rows())
    assert (found.concepts, found.ids_hash) == (made.concepts, made.ids_hash)
    assert (found.rows == made.rows).all()


def test_exams_fit_what_can_be_graded(prepared: Callable[..., Prepared]) -> None:
    def measures(given: Prepared, *avoided: str) -> list[str]:
        return [exam.name for exam in exams_of(given, avoided)]

    skilled = prepared(RULES, lab=True, skills=("new_sums",))
    assert measures(skilled, "pirate") == ["skill", "trait_on_task", "capability", "trait_leak", "obedience-pirate"]
    # The user's own questions on the lab: the planted truth cannot grade the skill, so that exam is the general one.
    mixed = measures(prepared(RULES, lab=True, held_out=OWN_ROWS), "pirate")
    assert sorted(mixed) == sorted(["capability", "trait_leak", "obedience-pirate", "skill", "trait_on_task"])
    # A concept that is not planted, and any other model.
    assert measures(prepared(RULES, lab=True, held_out=OWN_ROWS), "sums") == ["skill", "trait_on_task"]
    assert measures(prepared(RULES, held_out=OWN_ROWS), "pirate") == ["skill", "trait_on_task"]


def test_a_control_that_does_not_exist_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(inputs, "_host", lambda model, _revision: loaded.append(model))
    wrong = RunSettings(model="lab", data="d", spec="s", controls=(ControlSettings(name="none+wishing"),))
    with pytest.raises(UsageError, match="wishing"):
        prepare(wrong)
    with pytest.raises(UsageError, match="without a bank"):
        prepare(RunSettings(model="some/model", data="d", spec="s"))
    assert loaded == []


def test_nothing_is_remembered_from_an_earlier_call(
    tmp_path: Path, prepared: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def record(settings: RunSettings) -> Prepared:
        seen.append(settings.data)
        return replace(prepared(RULES), settings=settings)

    monkeypatch.setattr(inputs, "prepare", record)
    for name in ("first", "second"):
        write_settings(RunSettings(model="lab", data=name, spec="s"), tmp_path / "run.yaml")
        inputs.forget()
        assert prepare_folder(tmp_path) is prepare_folder(tmp_path)
        assert prepare_folder(tmp_path).settings.data == name
    assert seen == ["first", "second"]
    inputs.forget()


def test_a_folder_without_a_plan_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no planned run"):
        loop.verify(tmp_path)


def test_a_spec_that_cannot_be_read_stops_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "prepare", lambda _settings: pytest.fail("loaded the model"))
    with pytest.raises(UsageError, match="cannot read the spec"):
        loop.run(RunSettings(model="lab", data="d", spec=str(tmp_path / "none.md")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_answers_and_results_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    given = answers({"skill": "10"})
    write_bytes(tmp_path / "answers.jsonl", b"".join(TypeAdapter(Answer).dump_json(a) + b"\n" for a in given))
    assert read_answers(tmp_path) == given
    result = arm("none", 0, given)
    save(result, tmp_path / "result.json")
    assert finished([tmp_path / "other", tmp_path]) == [result]
    (tmp_path / "answers.jsonl").write_text('{"exam": "sk')
    with pytest.raises(StorageError, match=r"remove the arm's result\.json"):
        read_answers(tmp_path)
    with pytest.raises(StorageError):
        read_answers(tmp_path / "other")
