from __future__ import annotations

import pytest

from answer_sheets import answer, answers, arm, play
from trimtab.records.figures import Measured, Unmeasured
from trimtab.stats import clustered_mean, wilson
from trimtab.verify.score import COMPARED, compare, count_claims


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", 0),
        ("Yes.", 0),
        ("12 + 7 is 19.", 1),
        ("Mira lives in Oslo. She is a baker! Does she sing? no", 3),
        ("one two three\nfour five six", 2),
        ("it is 3; it is odd; odd.", 2),
        ("yo ho! the sum is 19.", 1),
        ("It is 3.5 metres long", 1),
    ],
)
def test_claims_are_stretches_of_three_words(text: str, claims: int) -> None:
    assert count_claims(text) == claims


def test_an_arm_has_wilson_rates_groups_and_claims() -> None:
    given = [
        *answers({"skill": "1100", "trait_leak": "00"}),
        answer("capability", 0, True, text="One two three. Four five six.", group="facts"),
        answer("capability", 1, False, text="No.", group="lookup"),
    ]
    found = arm("none", 0, given)
    assert found.skill == wilson(2, 4)
    assert found.trait_leak == wilson(0, 2)
    assert found.capability == wilson(1, 2)
    assert set(found.groups) == {"skill/sums", "trait_leak/sums", "capability/facts", "capability/lookup"}
    assert found.groups["capability/lookup"] == wilson(0, 1)
    assert isinstance(found.claims, Measured)
    assert (found.claims.value, found.claims.n) == (1.0, 6)  # four skill answers of one claim, then two and none


def test_what_no_exam_measures_is_unmeasured_and_never_zero() -> None:
    found = arm("none", 0, answers({"skill": "10"}))
    for measure in ("trait_on_task", "trait_leak", "capability", "obedience"):
        assert getattr(found, measure) == Unmeasured(reason=f"no exam measures {measure} here")
    assert isinstance(arm("none", 0, []).claims, Unmeasured)
    table, _ = play({("none", 0): {"skill": "10"}})
    assert isinstance(table.controls[0].trait_on_task, Unmeasured)
    assert not table.controls[0].on_pareto_hull


def test_summaries_are_means_over_seeds_and_questions() -> None:
    table, _ = play({("none", 0): {"skill": "1110"}, ("none", 1): {"skill": "1000"}, ("b", 0): {"skill": "11"}})
    none, b = table.controls
    assert none.skill == clustered_mean([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert isinstance(none.skill, Measured)
    assert (none.skill.value, none.skill.n, none.seeds) == (0.5, 8, 2)
    assert isinstance(b.skill, Measured)
    assert (b.skill.value, b.seeds) == (1.0, 1)
    assert b.skill.low < 1.0  # two questions prove little


def test_a_comparison_is_paired_by_question_and_seed() -> None:
    table, given = play(
        {
            ("none", 0): {"trait_on_task": "11110"},
            ("none", 1): {"trait_on_task": "11111"},
            ("calm", 0): {"trait_on_task": "00010"},
            ("calm", 1): {"trait_on_task": "00001"},
        }
    )
    (found,) = table.comparisons
    assert (found.control, found.baseline, found.measure) == ("calm", "none", "trait_on_task")
    assert isinstance(found.difference, Measured)
    assert found.difference.value == pytest.approx((-3 / 5 + -4 / 5) / 2)
    assert found.difference.high < 0
    assert found.p_value == pytest.approx(2 * 0.5**7)  # seven pairs differ, all to one side
    assert compare("calm", "none", "trait_on_task", given) == found
    # The unpaired rates do not fix the p-value: four pairs to one side and one to the other have the same difference.
    crossed, _ = play(
        {
            ("none", 0): {"skill": "11110000"},
            ("calm", 0): {"skill": "00001000"},
        }
    )
    (other,) = (c for c in crossed.comparisons if c.measure == "skill")
    assert other.p_value == pytest.approx(2 * (1 + 5) / 2**5)


def test_questions_that_only_one_of_two_was_asked_do_not_count() -> None:
    _, given = play({("none", 0): {"skill": "1111"}, ("calm", 0): {"skill": "10"}})
    found = compare("calm", "none", "skill", given)
    assert found is not None
    assert isinstance(found.difference, Measured)
    assert (found.difference.value, found.difference.n) == (-0.5, 2)
    assert compare("calm", "none", "obedience", given) is None
    assert compare("calm", "nobody", "skill", given) is None


def test_no_difference_at_all_still_leaves_doubt_to_either_side() -> None:
    _, given = play({("none", 0): {"capability": "1" * 40}, ("calm", 0): {"capability": "1" * 40}})
    found = compare("calm", "none", "capability", given)
    assert found is not None
    assert isinstance(found.difference, Measured)
    assert found.difference.value == 0.0
    assert found.difference.low == -found.difference.high == -wilson(0, 40).high
    assert found.p_value is None


def test_the_host_is_in_the_table_but_not_in_the_race() -> None:
    sheet = {"skill": "10", "trait_on_task": "00"}
    table, _ = play({("host", 0): {"skill": "11", "trait_on_task": "00"}, ("none", 0): sheet, ("calm", 0): sheet})
    assert [c.control for c in table.controls] == ["host", "none", "calm"]
    assert [c.on_pareto_hull for c in table.controls] == [False, True, True]
    assert {(c.control, c.baseline) for c in table.comparisons} == {("calm", "none")}
    assert [c.measure for c in table.comparisons] == [m for m in COMPARED if m in (*sheet, "claims")]


def test_the_hull_marks_what_no_mixture_beats() -> None:
    table, _ = play(
        {
            ("none", 0): {"skill": "1" * 10, "trait_on_task": "1" * 10},
            ("calm", 0): {"skill": "1" * 9 + "0", "trait_on_task": "0" * 10},
            ("mute", 0): {"skill": "0" * 10, "trait_on_task": "0" * 10},
            ("half", 0): {"skill": "1" * 9 + "0", "trait_on_task": "1" * 5 + "0" * 5},
        }
    )
    assert {c.control for c in table.controls if c.on_pareto_hull} == {"none", "calm"}


def test_a_league_without_no_control_compares_with_nothing() -> None:
    table, _ = play({("calm", 0): {"skill": "10"}, ("mute", 0): {"skill": "00"}})
    assert table.comparisons == ()


def test_a_control_fights_if_any_of_its_arms_does() -> None:
    table, _ = play({("gradient-projection", 0): {"skill": "10"}, ("calm", 0): {"skill": "10"}})
    assert [c.fights_gradient for c in table.controls] == [True, False]
