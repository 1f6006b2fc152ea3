from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from answer_sheets import play
from control_world import forecast
from trimtab.cli.progress import bars
from trimtab.cli.show import (
    number,
    show_certificate,
    show_controls,
    show_forecast,
    show_league,
    show_rulings,
    spread,
    value,
)
from trimtab.control.registry import REGISTRY
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.forecast import RowPush, TokenMark
from trimtab.records.ledger import Ruling
from trimtab.verify.certify import certify

HALF = Measured(value=0.5, low=0.25, high=0.75, n=8)
MISSING = Unmeasured(reason="a test")


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=220, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_figure_shows_its_interval_and_a_missing_one_no_number() -> None:
    assert re.sub(r"\[.*?\]", "", number(HALF)) == "0.50 0.25–0.75"
    assert re.sub(r"\[.*?\]", "", number(HALF, percent=True)) == "50% 25–75"
    assert re.sub(r"\[.*?\]", "", spread(HALF)) == "0.5000 ±0.2500"
    assert (value(HALF, digits=1), value(HALF, percent=True)) == ("0.5", "50%")
    for shown in (number, value, spread):
        assert not re.search(r"\d", shown(MISSING))


def test_a_forecast_that_measured_nothing_says_so_and_prints_no_zero(console: Console) -> None:
    show_forecast(console, forecast(carried=None, pirate=True))
    said = printed(console)
    row = next(line for line in said.splitlines() if line.split()[:1] == ["pirate"])
    assert row.split() == ["pirate", "yes", "unmeasured", "unmeasured", "–", "–", "–", "–"]
    assert "share unmeasured" in said


def test_a_forecast_names_rows_and_does_not_obey_their_markup(console: Console) -> None:
    row = RowPush(
        row=4, line=17, push=1.0, unit="push", prompt="[red]1+1[/red]", tokens=(TokenMark(text="[/b] arr", push=1.0),)
    )
    made = forecast(pirate=True)
    made = replace(
        made, concepts=(replace(made.concepts[0], rows=(row,)),), unnamed=True, unnamed_rows=(replace(row, line=18),)
    )
    show_forecast(console, made)
    said = printed(console)
    assert "Something here has no name" in said
    assert "line 18: [red]1+1[/red] → [/b] arr" in said
    assert "pirate: lines 17; first: [/b] arr" in said


def test_rulings_show_verdict_author_margin_and_reason(console: Console) -> None:
    said = "Do not [pick up] the way it talks."
    show_rulings(
        console,
        [
            Ruling(concept="pirate", verdict="avoid", reason="a", by="similarity", clause=said, margin=0.25),
            Ruling(concept="[zan]", verdict="avoid", reason="b", by="similarity", clause=said, margin=0.125),
            Ruling(concept="marks", verdict="needs-human", reason="unclear", by="rule"),
        ],
    )
    lines = [" ".join(line.split()) for line in printed(console).splitlines()]
    assert f"avoid pirate, [zan] similarity ≥ 0.12 {said}" in lines
    assert "needs-human marks rule unclear" in lines


def test_the_league_marks_fighters_and_hull_and_leaves_gaps_open(console: Console) -> None:
    table, _ = play(
        {
            ("none", 0): {"skill": "11", "trait_on_task": "11"},
            ("gradient-projection", 0): {"skill": "10", "trait_on_task": "11"},
            ("[calm]", 0): {"skill": "11", "trait_on_task": "00"},
        }
    )
    show_league(console, table)
    lines = {line.split()[0]: line for line in printed(console).splitlines() if line.strip()}
    assert "†" in lines["gradient-projection"]
    assert "†" not in lines["[calm]"]
    assert "[calm] *" in lines["[calm]"]
    assert "100%" in lines["[calm]"]
    assert lines["[calm]"].count("unmeasured") == 1  # leak
    assert lines["[calm]"].count("–") >= 2  # kept and asked: no room for the word, and no zero


def test_a_certificate_shows_every_item_with_its_outcome(console: Console) -> None:
    table, answers = play({("[/calm]", 0): {"skill": "11", "trait_on_task": "11"}})
    made = certify(
        run="r", control="[/calm]", league=table, answers=answers, readings=MISSING, model_hash="", versions={}
    )
    show_certificate(console, made)
    said = printed(console)
    assert "Certificate of [/calm]: fail" in said
    for item in made.items:
        (line,) = (line for line in said.splitlines() if item.question in line)
        assert line.rstrip().endswith(item.outcome)
        assert ("unmeasured" in line) == isinstance(item.figure, Unmeasured)


def test_controls_are_listed(console: Console) -> None:
    show_controls(console)
    said = printed(console)
    for name in REGISTRY:
        assert name in said
    fighting = [name for name, entry in REGISTRY.items() if entry.fights_gradient]
    marked = [line.split()[0] for line in said.splitlines() if "Fights the gradient." in line]
    assert marked == fighting
    assert fighting


def test_progress_leaves_one_line_for_each_stage(console: Console) -> None:
    with bars(console) as progress:
        progress("[one]", 0, 2)
        progress("two", 0, 1)
        progress("[one]", 2, 2)
        progress("two", 1, 1)
        progress("[one]", 1, 1)
    done = [line.strip() for line in printed(console).splitlines() if "done" in line]
    assert [re.sub(r" \(.*", "", line) for line in done] == ["done: [one]", "done: two", "done: [one]"]
    assert len(printed(console).splitlines()) == 3  # no bar, and no blank line where it would have stood
