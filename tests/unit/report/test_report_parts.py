from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.results import Answer, League
from trimtab.report.charts import Spot, bar, losses, scatter
from trimtab.report.examples import side_by_side, worst
from trimtab.report.league import league_view
from trimtab.report.measures import best_control, failed
from trimtab.report.source import Arm, Curve, read_run
from trimtab.report.svg import Scale, scale_of, tag
from trimtab.report.words import clean, excerpt, listed, number, places_of, show
from unit.report.run_folders import CONTROLS, answers, arm_result, comparisons, summary

HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=80))
def test_clean_leaves_nothing_hidden_and_is_idempotent(text: str) -> None:
    once = clean(text)
    assert not HIDDEN.search(once)
    assert clean(once) == once
    once.encode()  # no surrogate is left


def test_clean_keeps_what_scripts_need() -> None:
    assert clean("tab\there\nline · नमस्\u200dते · می\u200cخواهم") == "tab\there\nline · नमस्\u200dते · می\u200cخواهم"
    assert clean("a\r\nb\rc") == "a\nb\nc"


@given(st.text(max_size=400), st.integers(1, 200), st.integers(1, 10))
def test_excerpt_is_a_beginning_within_its_limits(text: str, limit: int, lines: int) -> None:
    cut = excerpt(text, limit, lines)
    assert text.startswith(cut.text)
    assert len(cut.text) <= limit
    assert cut.text.count("\n") < lines
    assert bool(cut.note) == (cut.text != text)


@given(st.floats(0, 1))
def test_a_rate_reads_zero_or_hundred_only_when_it_is(value: float) -> None:
    text = number(value, "rate")
    assert (text == "0") == (value == 0)
    assert (text == "100") == (value == 1)
    assert float(text.strip("<> ")) == pytest.approx(100 * value, abs=0.051)


def test_numbers() -> None:
    assert number(0.923, "rate") == "92.3"
    assert number(1.0, "rate") == "100"
    assert number(0.0004, "rate") == "0.04"
    assert number(1e-9, "rate") == "< 0.001"
    assert number(-0.0234, "points") == "−2.3"
    assert number(0.0234, "points") == "+2.3"
    assert number(0.0, "points") == "0"
    assert number(0.03394, places=4) == "0.0339"
    assert number(12345.6) == "12,346"
    assert places_of([Measured(value=0.0339, low=0.0, high=1.0, n=1), Unmeasured(reason="no")]) == 4
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefghijk"), most=3) == "a, b, c and 8 more"


def test_show_keeps_interval_n_and_reason() -> None:
    shown = show(Measured(value=0.5, low=0.4, high=0.61, n=1200), "rate")
    assert (shown.text, shown.interval, shown.n) == ("50.0%", "[40.0, 61.0]", "n = 1,200")
    missing = show(Unmeasured(reason="nobody asked"), "rate")
    assert (missing.measured, missing.text, missing.interval) == (False, "unmeasured: nobody asked", "")


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=30))
def test_svg_is_xml_whatever_stands_in_it(text: str) -> None:
    figure = Measured(value=0.3, low=-0.1, high=0.4, n=3)
    element = ET.fromstring(bar(figure, scale_of([figure]), name=text))
    assert element.tag == "svg"
    assert ET.fromstring(tag("text", text, class_=text, text_anchor="end")).get("text-anchor") == "end"


@given(
    st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=6), st.booleans()
)
def test_scale_is_monotone_and_stays_inside(low: float, width: float, values: list[float], log: bool) -> None:
    scale = Scale(low=1e-3, high=1e-3 + width, log=True) if log else Scale(low=low, high=low + width)
    shares = [scale.share(value) for value in sorted(values)]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    if scale.high > scale.low:
        assert (scale.share(scale.low), scale.share(scale.high)) == (0, pytest.approx(1))
    slack = 1e-6 * max(abs(scale.low), abs(scale.high))
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in scale.ticks())


def test_ticks_are_round() -> None:
    assert Scale(low=0.0, high=1.0).ticks(4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert Scale(low=0.02, high=3.0, log=True).ticks(3) == (0.1, 1.0)


def test_an_unmeasured_bar_is_not_drawn() -> None:
    assert bar(Unmeasured(reason="no"), Scale(low=0.0, high=1.0), name="x") == ""


def _rate(value: float) -> Measured:
    return Measured(value=value, low=max(0.0, value - 0.02), high=min(1.0, value + 0.02), n=100)


def test_scatter_draws_points_where_they_were_measured_and_leaves_out_the_rest() -> None:
    spots = [
        Spot(key="A", name="good", cost=_rate(0.1), gain=_rate(0.9), class_="best"),
        Spot(key="B", name="bad", cost=_rate(0.95), gain=_rate(0.85), class_="fights"),
        Spot(key="C", name="unknown", cost=Unmeasured(reason="no"), gain=_rate(0.5), class_=""),
    ]
    root = ET.fromstring(scatter(spots, cost="leak", gain="skill"))
    (mark,) = root.findall(".//circle")
    assert (mark.get("cx"), float(mark.get("cy", "nan"))) == ("10.00%", pytest.approx(30))
    assert [t.text for t in root.findall(".//text[@class='key']")] == ["A", "B"]
    assert "unknown" not in (root.findtext("desc") or "")
    hull = [(line.get("x1"), line.get("x2")) for line in root.findall(".//line[@class='hull']")]
    assert hull == [("10.00%", "10.00%"), ("10.00%", "100.00%")]


def test_crowded_keys_do_not_overlap() -> None:
    spots = [Spot(key=str(i), name=str(i), cost=_rate(0.0), gain=_rate(0.9), class_="") for i in range(8)]
    root = ET.fromstring(scatter(spots, cost="leak", gain="skill"))
    heights = sorted(
        float(svg.get("y", "nan")) for svg in root.findall("svg") if svg.find("text[@class='key']") is not None
    )
    assert len(heights) == 8
    assert min(b - a for a, b in pairwise(heights)) >= 12.9


def test_loss_curve_keeps_its_last_point_and_stays_short() -> None:
    curve = Curve(points=tuple((step, 5000.0 / step) for step in range(1, 5001)))
    scale = Scale(low=1.0, high=5000.0, log=True)
    root = ET.fromstring(losses({"0": curve}, scale, 5000, name="none", reference=()))
    points = (root.findall(".//polyline")[0].get("points") or "").split(" ")
    assert len(points) <= 170
    assert points[-1] == "1000.0,96.0"


def _league() -> League:
    rng = random.Random(3)
    given_answers = {name: answers(rng, truth, 60) for name, truth in CONTROLS.items()}
    arms = tuple(arm_result(rng, name, CONTROLS[name], 0, given_answers[name]) for name in CONTROLS)
    controls = tuple(summary(arm.control, [arm], given_answers[arm.control]) for arm in arms)
    return League(arms=arms, controls=controls, comparisons=comparisons(rng))


def test_best_never_fights_the_gradient() -> None:
    league = _league()
    fighting = replace(
        league.controls[1], fights_gradient=True, skill=_rate(1.0), trait_on_task=_rate(0.0), trait_leak=_rate(0.0)
    )
    league = replace(league, controls=(league.controls[0], fighting, *league.controls[2:]))
    best = best_control(league, None)
    assert best in {"conditional-inoculation", "token-mask"}
    assert [row.control for row in league_view(league, None).rows if "best" in row.class_] == [best]


def test_unmeasured_controls_are_never_best() -> None:
    league = _league()
    controls = tuple(replace(item, trait_leak=Unmeasured(reason="not asked")) for item in league.controls)
    assert best_control(replace(league, controls=controls), None) is None


def _arms(seeds: int = 3) -> tuple[Arm, ...]:
    rng = random.Random(5)
    return tuple(
        Arm(control=name, seed=str(seed), result=None, curve=None, answers=answers(rng, CONTROLS[name], 30))
        for name in ("none", "inoculation")
        for seed in range(seeds)
    )


def test_worst_counts_every_failure_and_shows_the_most_common_first() -> None:
    arms = _arms()
    (inoculated, none) = worst(arms, ["inoculation", "none"])
    assert (inoculated.control, none.control) == ("inoculation", "none")
    for item in (inoculated, none):
        pool: list[Answer] = [a for arm in arms if arm.control == item.control for a in arm.answers]
        bad = [a for a in pool if failed(a.measure, a.passed)]
        assert (item.count, item.total) == (len(bad), len(pool))
        assert sum(measure.count for measure in item.measures) == len(bad)
        skill = next(m for m in item.measures if m.label.startswith("Wanted skill"))
        often = Counter(a.id for a in bad if a.measure == "skill")
        assert skill.questions == len(often)
        shown = [int(case.seeds.split(" ")[0]) for case in skill.shown]
        assert shown == sorted(often.values(), reverse=True)[: len(shown)]


def test_side_by_side_shows_each_control_once_and_prefers_disagreement() -> None:
    questions = side_by_side(_arms(), ["none", "inoculation"])
    assert questions
    assert len(questions) <= 12
    for question in questions:
        assert [cell.control for cell in question.cells] == ["none", "inoculation"]
    on_task = [q for q in questions if q.topic == "On the task"]
    assert all(q.cells[0].grades != q.cells[1].grades for q in on_task)
    assert {len(cell.grades) for q in on_task for cell in q.cells} == {2}, (
        "skill and trait of one answer stand together"
    )


def test_metrics_after_a_resume_count_once(tmp_path: Path) -> None:
    arm = tmp_path / "arms" / "none" / "seed-10"
    arm.mkdir(parents=True)
    (tmp_path / "arms" / "none" / "seed-2").mkdir()
    lines = [
        '{"step": 10, "loss": 2.0}',
        '{"step": 20, "loss": 9}',
        '{"step": 20, "loss": 1.5}',
        '{"eval": 1}',
        "{torn",
    ]
    (arm / "metrics.jsonl").write_text("\n".join(lines))
    run = read_run(tmp_path)
    assert [a.seed for a in run.arms] == ["2", "10"]
    assert run.arms[1].curve == Curve(points=((10, 2.0), (20, 1.5)))
    assert run.faults == ("arms/none/seed-10/metrics.jsonl: line 5 cannot be read; left out",)
