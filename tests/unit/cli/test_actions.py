from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from control_world import forecast
from trimtab.cli import actions
from trimtab.errors import NeedsHumanError, ProtectedConceptError, StorageError, UsageError
from trimtab.records.config import RunSettings
from trimtab.records.figures import Measured
from trimtab.records.forecast import Forecast
from trimtab.records.io import save
from trimtab.records.ledger import Ruling, read_ledger

OPEN = Ruling(concept="pirate", verdict="needs-human", reason="the spec says nothing of it", by="similarity")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(actions, "console", Console(file=shown, width=200, highlight=False))
    return shown


def settings(
    controls: str = "auto", seeds: str = "0", train: Mapping[str, object] | None = None, **more: object
) -> RunSettings:
    given = {"model": "m", "data": Path("d"), "spec": Path("s"), "jobs": None, **more}
    return actions.settings_from(controls=controls, seeds=seeds, train=train or {"method": None}, **given)


def test_words_become_settings() -> None:
    made = actions.settings_from(
        model="m",
        data=Path("d"),
        spec=Path("s"),
        jobs=None,
        controls=" none, a+b",
        seeds="3, 4",
        train={"max_steps": 5},
    )
    assert [control.name for control in made.controls if not isinstance(control, str)] == ["none", "a+b"]
    assert (made.seeds, made.train.max_steps, made.data, made.jobs) == ((3, 4), 5, "d", 1)


def test_the_lab_has_defaults_of_its_own_and_words_beat_them() -> None:
    def made(**train: object) -> tuple[str, int]:
        found = settings(model="lab", train={"method": None, **train})
        return found.train.method, found.train.save_steps

    assert made() == ("full", 100)
    assert made(method="lora", save_steps=7) == ("lora", 7)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"seeds": "0,,1"}, "seeds.1: Input should be a valid integer"),
        ({"seeds": "0,one"}, "seeds.1: Input should be a valid integer"),
        ({"seeds": "-1"}, "seeds.0: Input should be greater than or equal to 0"),
        ({"seeds": "1,2,1"}, "a seed stands twice"),
        ({"controls": "none,none"}, "none: give each control set a label of its own"),
        ({"controls": "host"}, "host: give each control set a label of its own"),
        ({"train": {"max_steps": 0}}, "train.max_steps: Input should be greater than 0"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate"),
        ({"jobs": 0}, "jobs: Input should be greater than 0"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ],
    ids=str,
)
def test_words_that_do_not_fit_are_named(words: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        settings(**cast("dict[str, Any]", words))
    assert error.value.given.startswith("command line: ")
    assert said in error.value.given


def test_a_human_is_asked_until_the_answer_is_one_of_three(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["", "yes", " AVOID "])
    monkeypatch.setattr("builtins.input", lambda *_: next(said))
    assert actions.ask_human(OPEN) == "avoid"
    assert screen.getvalue().count("learn, avoid or ignore?") == 3
    assert "pirate: the spec says nothing of it" in screen.getvalue()


def test_a_closed_terminal_is_not_an_answer(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    with pytest.raises(NeedsHumanError, match="pirate"):
        actions.ask_human(OPEN)


def plan(tmp_path: Path, spec: str, made: Forecast, *, yes: bool = True) -> Path:
    save(made, tmp_path / "forecast.json")
    (tmp_path / "spec.md").write_text(spec, encoding="utf-8")
    actions.plan(
        spec=tmp_path / "spec.md", forecast_file=tmp_path / "forecast.json", yes=yes, out=tmp_path / "ledger.jsonl"
    )
    return tmp_path / "ledger.jsonl"


RULES = "---\nrules: {pirate: avoid}\n---\n"


def test_plan_writes_what_it_shows(tmp_path: Path, screen: io.StringIO) -> None:
    ledger = read_ledger(plan(tmp_path, RULES, forecast(pirate=True)))
    assert [(ruling.concept, ruling.verdict, ruling.by) for ruling in ledger.rulings] == [("pirate", "avoid", "rule")]
    assert "pirate" in screen.getvalue()


def test_plan_with_yes_refuses_to_guess_and_keeps_what_was_ruled(tmp_path: Path, screen: io.StringIO) -> None:
    with pytest.raises(NeedsHumanError, match=r"zan[\s\S]*to do: .*rule") as error:
        plan(tmp_path, RULES, forecast(pirate=True, zan=True))
    assert error.value.exit_code == 8
    current = read_ledger(tmp_path / "ledger.jsonl").current()
    assert {name: ruling.verdict for name, ruling in current.items()} == {"pirate": "avoid", "zan": "needs-human"}
    assert "needs-human" in screen.getvalue()


@pytest.mark.usefixtures("screen")
def test_plan_asks_where_there_is_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(actions, "ask_human", lambda ruling: "ignore")
    ruling = read_ledger(plan(tmp_path, RULES, forecast(pirate=True, zan=True), yes=False)).current()["zan"]
    assert (ruling.verdict, ruling.by) == ("ignore", "human")


@pytest.mark.usefixtures("screen")
def test_plan_refuses_protected_concepts_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ProtectedConceptError, match=r"allow_protected: \[deception\]") as error:
        plan(tmp_path, "---\nrules: {deception: learn}\n---\n", forecast(pirate=False))
    assert error.value.exit_code == 7
    assert not (tmp_path / "ledger.jsonl").exists()


@pytest.mark.usefixtures("screen")
def test_plan_stops_at_too_much_without_a_name(tmp_path: Path) -> None:
    share = Measured(value=0.5, low=0.4, high=0.6, n=6)
    with pytest.raises(NeedsHumanError, match=r"max_unexplained_share: 0\.3"):
        plan(
            tmp_path,
            "---\nmax_unexplained_share: 0.3\nrules: {pirate: avoid}\n---\n",
            replace(forecast(pirate=True), unexplained_share=share),
        )


@pytest.mark.usefixtures("screen")
def test_a_damaged_or_missing_forecast_is_named(tmp_path: Path) -> None:
    (tmp_path / "spec.md").write_text(RULES)
    (tmp_path / "torn.json").write_text('{"model": "la')
    for name, said in (("torn.json", "not a valid Forecast"), ("none.json", "No such file")):
        with pytest.raises(StorageError, match=said):
            actions.plan(spec=tmp_path / "spec.md", forecast_file=tmp_path / name, yes=True, out=None)


def test_another_model_than_the_lab_needs_a_bank(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1?", "completion": "2"}\n')
    with pytest.raises(UsageError, match="without --bank"):
        actions.forecast(
            data=rows,
            model="some/model",
            revision=None,
            bank=None,
            json_out=None,
            html_out=None,
            exclude=(),
            settings=(None, True, False),
        )
