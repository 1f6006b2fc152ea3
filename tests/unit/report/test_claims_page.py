"""The page of claims: kinds of mistake, the worst first, everything escaped, nothing that was not measured."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import UsageError
from trimtab.records.claims import Action, JudgedAnswer, JudgedClaim, Stance, Truth
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.hallucination import Curve, StageFigures, StageResult
from trimtab.records.io import from_json, to_json
from trimtab.report.claims_charts import StagePoint, curve_panels, tradeoff
from trimtab.report.claims_kinds import KINDS, error_kinds, is_error, kinds_of, severity
from trimtab.report.claims_page import MOST_CARDS, claims_page, ordered_stages
from trimtab.report.claims_text import LEVELS, level_of, marked, percent
from unit.report.html_page import Element, by_id, read_page, section

MISSING = Unmeasured(reason="no harness")


def claim(
    truth: Truth,
    probability: float | None = 0.8,
    stance: Stance = "asserted",
    action: Action | None = None,
    *,
    at: tuple[int, int] = (0, 4),
) -> JudgedClaim:
    return JudgedClaim(
        text="Born", start=at[0], end=at[1], stance=stance, probability=probability, truth=truth, action=action
    )


def answer(*claims: JudgedClaim, id: str = "q1", stage: str = "after", seed: int = 0, text: str = "") -> JudgedAnswer:
    if not text:
        text = "Born in Lund. " * max(1, len(claims))
        claims = tuple(replace(item, start=14 * i, end=14 * i + 13) for i, item in enumerate(claims))
    return JudgedAnswer(
        stage=stage, seed=seed, id=id, group="people", known=True, prompt=f"Who is {id}?", text=text, claims=claims
    )


def figures(wrong: Figure, stage: str = "before") -> StageFigures:
    share = Measured(value=0.5, low=0.4, high=0.6, n=50)
    return StageFigures(
        stage=stage,
        wrong_claims=wrong,
        claims=Measured(value=2.5, low=2.25, high=2.75, n=40),
        hedged=share,
        ungraded=share,
        known_answered=share,
        flagged_kept=MISSING,
        facts=share,
        arithmetic=share,
    )


def result(stage: str = "before", seed: int = 0) -> StageResult:
    wrong = Measured(value=0.3, low=0.2, high=0.4, n=90)
    return StageResult(seed=seed, **vars(figures(wrong, stage)))


SUMMARY = tuple(
    figures(Measured(value=value, low=value - 0.05, high=value + 0.05, n=90), stage)
    for stage, value in (("after", 0.125), ("before", 0.375))
)


def page(
    folder: Path,
    answers: Sequence[JudgedAnswer] = (),
    *,
    results: Sequence[StageResult] = (),
    summary: Sequence[StageFigures] = (),
    curves: Sequence[Curve] = (),
    title: str = "Lab",
    note: str = "",
) -> Element:
    path = folder / "claims.html"
    path.write_text(claims_page(results, summary, answers, curves, title=title, note=note), encoding="utf-8")
    return read_page(path)


def visible(made: Element) -> list[Element]:
    return [card for card in section(made, "cards").all("article") if "hidden" not in card.attributes]


def id_of(card: Element) -> str:
    return card.all("span", "id")[0].words()


RIGHT, WRONG = claim("right"), claim("wrong")
HEDGED_WRONG, HEDGED_RIGHT = claim("wrong", 0.4, "hedged"), claim("right", 0.4, "hedged")
TAKEN_BACK = claim("wrong", 0.2, "withdrawn", "retract")


@pytest.mark.parametrize(
    ("item", "kinds"),
    [
        (claim("wrong", 0.5), {"confident"}),
        (claim("wrong", 0.499), {"caught"}),
        (claim("wrong", 0.2, action="maintain"), {"caught"}),
        (claim("wrong", 0.6, action="maintain"), {"confident", "caught"}),
        (claim("wrong", None, action="maintain"), {"caught"}),
        (claim("wrong", None), {"unread"}),
        (claim("wrong", 0.9, "hedged"), set()),
        (claim("wrong", 0.9, "withdrawn", "correct"), set()),
        (claim("right", 0.9), set()),
        (claim("unknown", 0.9), set()),
    ],
)
def test_how_an_error_came_to_stand(item: JudgedClaim, kinds: set[str]) -> None:
    assert error_kinds(item) == kinds
    assert bool(kinds) == is_error(item)


@pytest.mark.parametrize(
    ("claims", "kinds"),
    [
        ((RIGHT,), {"right"}),
        ((RIGHT, TAKEN_BACK), {"right"}),
        ((RIGHT, claim("unknown")), set()),
        ((RIGHT, HEDGED_WRONG), set()),
        ((RIGHT, HEDGED_RIGHT), {"lost"}),
        ((RIGHT, claim("right", 0.3, "withdrawn", "retract")), {"lost"}),
        ((claim("right", 0.3, "withdrawn", "retract"),), {"lost", "silent"}),
        ((TAKEN_BACK,), {"silent"}),
        ((), {"silent"}),
        ((RIGHT, WRONG), {"confident"}),
        ((WRONG, claim("wrong", 0.1), HEDGED_RIGHT), {"confident", "caught", "lost"}),
    ],
)
def test_kinds_of_an_answer_by_itself(claims: tuple[JudgedClaim, ...], kinds: set[str]) -> None:
    assert kinds_of(answer(*claims)) == kinds


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ((RIGHT,), (WRONG,), {"new"}),
        ((RIGHT, WRONG), (WRONG,), set()),  # it was wrong already
        ((HEDGED_RIGHT,), (WRONG,), set()),  # it was not right
        ((), (WRONG,), set()),
        ((WRONG,), (RIGHT,), {"fixed"}),
        ((WRONG,), (HEDGED_WRONG,), {"fixed"}),
        ((WRONG,), (RIGHT, WRONG), set()),
        ((WRONG,), (), set()),  # silence repairs nothing
        ((WRONG,), (TAKEN_BACK,), set()),
        ((RIGHT,), (RIGHT,), set()),
    ],
)
def test_what_training_broke_and_mended(
    before: tuple[JudgedClaim, ...], after: tuple[JudgedClaim, ...], moved: set[str]
) -> None:
    changed = answer(*after)
    assert kinds_of(changed, answer(*before, stage="before")) & {"new", "fixed"} == moved
    assert kinds_of(changed) == kinds_of(changed, answer(*before, stage="before")) - {"new", "fixed"}


def test_the_worst_come_first() -> None:
    ordered = [
        answer(claim("wrong", 0.97), id="c"),
        answer(claim("wrong", 0.6), claim("wrong", 0.5), id="d"),
        answer(claim("wrong", 0.6), id="b"),
        answer(claim("wrong", 0.49, action="maintain"), id="f"),
        answer(claim("wrong", 0.1), id="e"),
        answer(claim("wrong", None), id="a"),
        answer(claim("right", 0.3, "withdrawn", "retract"), id="i"),
        answer(claim("right", 0.3, action="maintain"), id="g"),
        answer(HEDGED_RIGHT, id="h0"),
        answer(RIGHT, id="h1"),
    ]
    assert sorted(reversed(ordered), key=severity) == ordered


claims = st.builds(
    claim,
    st.sampled_from(["right", "wrong", "unknown"]),
    st.none() | st.floats(0, 1),
    st.sampled_from(["asserted", "hedged", "withdrawn"]),
    st.none() | st.sampled_from(["maintain", "correct", "retract"]),
)


@given(st.lists(claims, max_size=4), st.lists(claims, max_size=4))
def test_kinds_agree_with_each_other(mine: list[JudgedClaim], theirs: list[JudgedClaim]) -> None:
    kinds = kinds_of(answer(*mine), answer(*theirs, stage="before"))
    wrong = bool(kinds & {"confident", "caught", "unread"})
    assert kinds <= set(KINDS)
    assert wrong == any(map(is_error, mine))
    assert not ("right" in kinds and (wrong or kinds & {"lost", "silent"}))
    assert not {"new", "fixed"} <= kinds
    assert wrong or "new" not in kinds
    assert not (wrong and "fixed" in kinds)
    assert (severity(answer(*mine))[0] < 2) == wrong
    assert (severity(answer(*mine))[0] == 0) == ("confident" in kinds)


@given(st.floats(0, 1))
def test_underline_and_numbers_never_overstate(probability: float) -> None:
    assert 1 <= level_of(probability) <= LEVELS
    assert (level_of(probability) > LEVELS // 2) == (probability >= 0.5)
    assert (percent(probability) == "0%") == (probability == 0)
    assert (percent(probability) == "100%") == (probability == 1)


texts = st.text(max_size=30)
spans = st.lists(st.tuples(st.integers(0, 35), st.integers(0, 35)), max_size=5)


@given(texts, spans)
def test_marks_never_change_the_words(text: str, places: list[tuple[int, int]]) -> None:
    """Without its marks the text is the text, wherever claims are said to lie."""
    item = answer(*(claim("right", at=place) for place in places), text=f"a{text}")
    shown = marked(item)
    plain = re.sub(r"<sup.*?</sup>|</?(mark|span)[^>]*>", "", shown.html)
    assert plain == marked(replace(item, claims=())).html
    count = shown.html.count("<mark ")
    assert ("not marked" in shown.note) == (count < len(places))
    outside = [place for place in places if place[0] >= min(place[1], len(item.text))]
    assert count <= len(places) - len(outside)


def test_a_mark_says_what_is_known_of_its_claim(tmp_path: Path) -> None:
    kept = claim("wrong", 0.31, action="maintain", at=(0, 13))
    doubted = claim("right", None, "hedged", at=(14, 27))
    made = page(tmp_path, [answer(kept, doubted, text="Born in Lund. Maybe in Graz. That is all.")])
    first, second = section(made, "cards").all("mark")
    assert first.attributes["class"].split() == ["claim", "wrong", "u2", "asserted"]
    assert first.attributes["title"] == "wrong; said as a fact; probe: 31% right; flagged and maintained"
    assert first.attributes["tabindex"] == "0"
    assert first.words() == "Born in Lund.✗maintained"
    assert second.attributes["class"].split() == ["claim", "right", "unread", "hedged"]
    assert second.attributes["title"] == "right; hedged; not read by the probe"
    assert second.words() == "Maybe in Graz✓hedged"
    (sign,) = first.all("sup")
    assert sign.attributes["aria-label"] == first.attributes["title"]
    assert (sign.attributes["data-read"], second.all("sup")[0].attributes["data-read"]) == ("31%", "")


def test_a_long_answer_is_cut_and_says_what_is_missing() -> None:
    long = answer(claim("right", at=(0, 4)), claim("right", at=(4990, 4994)), text="word " * 1000)
    assert marked(long).html.count("<mark ") == 1
    assert marked(long).note == "cut here; 5,000 characters in all; 1 claim not marked"


def pair(id: str, before: JudgedClaim, after: JudgedClaim, seed: int = 0) -> list[JudgedAnswer]:
    return [answer(after, id=id, seed=seed), answer(before, id=id, stage="before", seed=seed)]


def test_cards_hold_base_and_policy_side_by_side_the_worst_first(tmp_path: Path) -> None:
    answers = [
        *pair("fine", RIGHT, RIGHT),
        *pair("mended", WRONG, RIGHT),
        *pair("broken", RIGHT, claim("wrong", 0.99)),
        *pair("caught", RIGHT, claim("wrong", 0.2)),
        *pair("other", RIGHT, WRONG, seed=1),
    ]
    made = page(tmp_path, answers)
    cards = visible(made)
    assert [id_of(card) for card in cards] == ["broken", "caught", "fine", "mended"]
    assert [card.all("h4")[0].words() for card in cards] == [
        "before all right",
        "before all right",
        "before all right",
        "before confident error",
    ]
    assert [card.all("h4")[1].words() for card in cards] == [
        "after confident error new error",
        "after caught but kept new error",
        "after all right",
        "after fixed all right",
    ]
    columns = [card.all("div", "chosen")[0].attributes for card in cards]
    assert [column["data-rank"] for column in columns] == ["0", "1", "2", "3"]
    assert [column["data-kinds"] for column in columns] == ["confident new", "caught new", "right", "fixed right"]
    lines = {
        line.all("span", "badge")[0].words(): [cell.words() for cell in line.all("td")]
        for line in section(made, "kinds").all("tr")[1:-1]
    }
    assert list(lines) == [name for name, _ in KINDS.values()]
    assert lines["confident error"] == ["1", "2"]
    assert lines["new error"] == ["", "3"]
    assert lines["fixed"] == ["", "1"]
    assert [cell.words() for cell in section(made, "kinds").all("tr")[-1].all("td")] == ["5", "5"]


def test_stages_and_seeds_can_be_chosen_and_the_policy_is_the_default(tmp_path: Path) -> None:
    answers = [
        answer(RIGHT, id=id, stage=stage, seed=seed)
        for seed in (7, 3)
        for stage in ("arm", "after", "weights", "before")
        for id in ("one", "two")
    ]
    made = page(tmp_path, answers)
    selects = {select.attributes["name"]: select for select in section(made, "choose").all("select")}
    assert [option.words() for option in selects["seed"].all("option")] == ["3", "7"]
    stages = selects["stage"].all("option")
    assert [option.words() for option in stages] == ["weights", "after", "arm"]
    assert ["selected" in option.attributes for option in stages] == [False, True, False]
    assert len(selects["kind"].all("option")) == 1 + len(KINDS)
    assert [card.attributes["data-seed"] for card in visible(made)] == ["0", "0"]
    for card in visible(made):
        columns = [(c.attributes["data-stage"], "hidden" in c.attributes) for c in card.all("div", "chosen")]
        assert columns == [("0", True), ("1", False), ("2", True)]
    assert len(section(made, "cards").all("article")) == 4


def test_one_stage_stands_alone_and_a_question_that_the_base_lacks_says_so(tmp_path: Path) -> None:
    (card,) = visible(page(tmp_path, [answer(WRONG, stage="before")]))
    assert not card.all("div", "two")
    assert [h.words() for h in card.all("h4")] == ["before confident error"]
    cards = visible(page(tmp_path, [*pair("one", RIGHT, RIGHT), answer(WRONG, id="two")]))
    assert [id_of(card) for card in cards] == ["two", "one"]
    assert "not asked" in cards[0].words()
    assert "new error" not in cards[0].words()


def test_the_last_of_two_answers_counts(tmp_path: Path) -> None:
    (card,) = visible(page(tmp_path, [answer(WRONG), answer(RIGHT)]))
    assert card.all("h4")[0].words() == "after all right"


@pytest.mark.parametrize("seeds", [1, 3])
def test_many_answers_are_cut_to_the_worst_and_the_page_says_how_many(tmp_path: Path, seeds: int) -> None:
    made = page(
        tmp_path,
        [
            item
            for seed in range(seeds)
            for i in range(250)
            for item in pair(f"q{i:03}", WRONG if i == 249 else RIGHT, claim("wrong", 0.9) if i == 248 else RIGHT, seed)
        ],
    )
    each = MOST_CARDS // seeds
    cards = section(made, "cards").all("article")
    assert len(cards) == each * seeds <= MOST_CARDS
    kept = [id_of(card) for card in visible(made)]
    assert len(kept) == each
    assert kept[0] == "q248"
    assert "q249" in kept  # the base's worst, which training mended
    notes = [note for note in section(made, "answers").all("p", "note") if "data-left" in note.attributes]
    assert [note.words() for note in notes] == [
        f"{250 - each} questions of seed {seed} are left out; the worst of every stage are kept."
        for seed in range(seeds)
    ]
    assert ["hidden" in note.attributes for note in notes] == [False] + [True] * (seeds - 1)
    assert [cell.words() for cell in section(made, "kinds").all("tr")[-1].all("td")] == [str(250 * seeds)] * 2


def test_the_table_gives_the_callers_figures_in_the_order_of_the_stages(tmp_path: Path) -> None:
    made = page(tmp_path, summary=SUMMARY, results=[result("after", 1), result("before", 0), result("after", 0)])
    rows = section(made, "stages").all("table", "stages")[0].all("tr")[1:]
    assert [row.all("span", "name")[0].words() for row in rows] == ["before", "after"]
    assert [row.all("td")[0].all("span", "fig")[0].words() for row in rows] == [
        "37.5% [32.5, 42.5]",
        "12.5% [7.5, 17.5]",
    ]
    assert [row.all("td")[1].all("span", "fig")[0].words() for row in rows] == ["2.50 [2.25, 2.75]"] * 2
    assert [row.all("td")[5].words() for row in rows] == ["unmeasured: no harness"] * 2
    assert not rows[0].all("td")[5].all("svg")
    seeds = section(made, "stages").all("details")[0].all("tr")[1:]
    assert [(row.all("th")[0].words(), row.all("td")[0].words()) for row in seeds] == [
        ("before", "0"),
        ("after", "0"),
        ("after", "1"),
    ]
    said = made.all("div", "verdict")[0].words()
    assert said == (
        "Of the claims that the host states, 37.5% are wrong and said as facts; 12.5% in “after”, the trained policy, "
        "best of N, under the harness. Claims per answer: 2.5 in “before”, 2.5 in “after”."
    )


def test_a_section_appears_where_there_is_something_to_show(tmp_path: Path) -> None:
    names = ("stages", "tradeoff", "curves", "kinds", "answers")
    assert [by_id(page(tmp_path), name) for name in names] == [None] * 5
    assert not page(tmp_path).all("nav")[0].all("a")
    curves = [Curve(name="reward", steps=(0, 1), values=(0.0, 1.0))]
    full = page(tmp_path, [answer(RIGHT)], results=[result()], summary=SUMMARY, curves=curves)
    links = [link.attributes["href"].removeprefix("#") for link in full.all("nav")[0].all("a")]
    assert links == list(names)
    assert all(by_id(full, name) is not None for name in names)
    assert not page(tmp_path, summary=SUMMARY[:1]).all("div", "verdict")


def test_the_chart_leaves_out_what_was_not_measured() -> None:
    one, two = (StagePoint(name=row.stage, claims=row.claims, wrong=row.wrong_claims) for row in SUMMARY)
    lost = StagePoint(name="lost", claims=MISSING, wrong=one.wrong)
    assert tradeoff([lost]) == ""
    made = tradeoff([one, two, lost, StagePoint(name="", claims=one.claims, wrong=one.wrong)])
    assert "after: 12.5% wrong, 2.5 claims per answer; before: 37.5% wrong, 2.5 claims per answer" in made
    assert "lost" not in made
    assert made.count('class="whisker"') == 4
    assert made.count('class="seed"') == 1
    assert tradeoff([one]) != tradeoff([two])


def test_names_in_the_chart_do_not_collide() -> None:
    row = SUMMARY[0]
    made = tradeoff([StagePoint(name=f"s{i}", claims=row.claims, wrong=row.wrong_claims) for i in range(4)])
    heights = sorted(float(y) for y in re.findall(r'y="(-?[\d.]+)" overflow="visible"><text', made))
    assert len(heights) == 4
    assert all(b - a >= 14 for a, b in pairwise(heights))


def test_curves_of_one_name_share_a_panel_and_broken_steps_are_named() -> None:
    made = curve_panels(
        [
            Curve(name="reward", steps=(0, 1, 2), values=(-1.0, 0.0, 1.5)),
            Curve(name="drift", steps=(0, 1, 2), values=(0.25, float("nan"), 0.5)),
            Curve(name="reward", steps=(0, 1, 2), values=(-1.0, 0.5, 2.0)),
            Curve(name="gone", steps=(0,), values=(float("inf"),)),
        ]
    )
    assert [(panel.name, panel.ends, panel.broken) for panel in made] == [
        ("reward", "1.5 and 2", ""),
        ("drift", "0.5", "not finite at step 1"),
        ("gone", "", "not finite at step 0"),
    ]
    assert [panel.drawing.count("<polyline") for panel in made] == [2, 1, 0]
    assert "nan" not in made[1].drawing


def test_a_flat_curve_and_a_long_one_can_be_drawn() -> None:
    flat, long = curve_panels(
        [
            Curve(name="flat", steps=(0, 5), values=(0.0, 0.0)),
            Curve(name="long", steps=tuple(range(5000)), values=tuple(float(i % 7) for i in range(5000))),
        ]
    )
    heights = re.findall(r",([\d.]+)", re.findall(r'points="([^"]*)"', flat.drawing)[0])
    assert len(set(heights)) == 1
    (points,) = re.findall(r'points="([^"]*)"', long.drawing)
    assert 100 < len(points.split()) < 200


def test_stages_have_one_order() -> None:
    assert ordered_stages(["arm", "after", "before", "arm"]) == ("before", "after", "arm")


def test_the_table_goes_to_json_and_back_and_refuses_what_is_no_figure() -> None:
    made = result("after", 2)
    assert from_json(StageResult, to_json(made)) == made
    with pytest.raises(UsageError):
        to_json(Curve(name="reward", steps=(0,), values=(float("nan"),)))


HOSTILE = "</style></script><script>alert(1)</script><img src=x>\"'{{ 7*7 }}\u202e\x00"


def test_nothing_that_a_record_says_acts_on_the_page(tmp_path: Path) -> None:
    item = replace(
        answer(claim("wrong", at=(0, len(HOSTILE))), text=HOSTILE + " x"), stage=HOSTILE, prompt=HOSTILE, group=HOSTILE
    )
    made = page(
        tmp_path,
        [replace(item, id=HOSTILE), replace(item, id=HOSTILE, stage="before")],
        results=[result(HOSTILE)],
        summary=[*SUMMARY, replace(SUMMARY[0], stage=HOSTILE)],
        curves=[Curve(name=HOSTILE, steps=(0, 1), values=(0.0, 1.0))],
        title=HOSTILE,
        note=HOSTILE,
    )
    (script,) = made.all("script")
    assert "alert" not in script.text
    text = (tmp_path / "claims.html").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not made.all("img")
    assert not [
        e for e in made.all() if {"src", "style"} & set(e.attributes) or any(a[:2] == "on" for a in e.attributes)
    ]
    assert all(link.attributes["href"].startswith("#") for link in made.all("a"))
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "49" not in made.all("h1")[0].words()
    assert "http://" not in text
    assert "https://" not in text


def test_the_same_records_give_the_same_page() -> None:
    def made(answers: Sequence[JudgedAnswer]) -> str:
        return claims_page([result()], SUMMARY, answers, [], title="t", note="")

    answers = [*pair("a", RIGHT, WRONG), *pair("b", WRONG, RIGHT)]
    assert made(answers) == made(answers)
    assert made(answers) != made(answers[:2])


def test_a_concept_is_told_of_in_its_own_words() -> None:
    shown = [answer(claim(truth="wrong"), stage=stage) for stage in ("before", "weights")]
    page = claims_page([result()], SUMMARY, shown, [], title="Less flattery", note="", concept="less flattery")
    assert "Wanted: less flattery." in page
    assert "an answer that is not as wanted (less flattery)" in page
    assert "Of the claims that the host states" not in page
    plain = claims_page([result()], SUMMARY, shown, [], title="Claims", note="")
    assert "Of the claims that the host states" in plain
    assert "which count nowhere else" in plain
