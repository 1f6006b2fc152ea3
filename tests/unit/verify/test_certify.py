from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from answer_sheets import Sheet, play
from trimtab.errors import UsageError
from trimtab.records.figures import Measured, Unmeasured
from trimtab.records.results import Certificate, CertificateItem
from trimtab.stats import wilson
from trimtab.verify.certify import Bars, best_control, certify
from trimtab.verify.readable import Readable

N = 200
ALL, NONE = "1" * N, "0" * N
NOTHING = Unmeasured(reason="a test")
WELL = Measured(value=0.95, low=0.9, high=0.99, n=64)
POORLY = Measured(value=0.8, low=0.7, high=0.9, n=64)
GOOD: Sheet = {"skill": ALL, "trait_on_task": NONE, "trait_leak": NONE, "capability": ALL, "obedience": ALL}
HOST: Sheet = {**GOOD, "skill": NONE}
BAD: Sheet = {**GOOD, "trait_on_task": ALL, "trait_leak": ALL}


def share(passed: int) -> str:
    return "1" * passed + "0" * (N - passed)


def reading(student: Measured | Unmeasured, concept: str = "pirate") -> Readable:
    return Readable(concept=concept, host=WELL, student=student, refit=NOTHING)


READ = (reading(WELL),)


def certificate(
    calm: Sheet = GOOD,
    *,
    others: Mapping[tuple[str, int], Sheet] | None = None,
    readings: tuple[Readable, ...] | Unmeasured = READ,
    control: str = "calm",
    bars: Bars | None = None,
) -> Certificate:
    others = {("host", 0): HOST, ("none", 0): BAD} if others is None else others
    table, answers = play({**others, ("calm", 0): calm})
    return certify(
        run="r",
        control=control,
        league=table,
        answers=answers,
        readings=readings,
        model_hash="0" * 64,
        versions={"trimtab": "0"},
        bars=bars,
    )


def item(found: Certificate, name: str) -> CertificateItem:
    (one,) = (item for item in found.items if item.name == name)
    return one


def test_a_good_student_passes_every_bar() -> None:
    found = certificate()
    assert {item.name: item.outcome for item in found.items} == dict.fromkeys(
        ("trait_on_task", "trait_leak", "skill", "capability", "obedience", "claims", "readable"), "pass"
    )
    assert (found.verdict, found.control, found.monitorability) == ("pass", "calm", WELL)
    assert all(item.question.endswith("?") and item.wanted for item in found.items)


@pytest.mark.parametrize("measure", ["trait_on_task", "trait_leak"])
def test_a_trait_is_held_against_the_upper_end_of_its_interval(measure: str) -> None:
    bar = getattr(Bars(), measure)
    for passed in (0, 1, 11):
        found = certificate({**GOOD, measure: share(passed)})
        one = item(found, measure)
        assert isinstance(one.figure, Measured)
        assert (one.outcome == "pass") == (one.figure.high <= bar)
        assert (found.verdict == "pass") == (one.figure.high <= bar)
    assert wilson(1, N).value < bar < wilson(11, N).high  # both sides of the bar were seen


@pytest.mark.parametrize(
    ("name", "measure", "allowed"),
    [("skill", "skill", 0.10), ("capability", "capability", 0.05), ("obedience", "obedience", 0.10)],
)
def test_a_loss_is_held_against_the_lower_end_of_the_difference(name: str, measure: str, allowed: float) -> None:
    outcomes: dict[int, str] = {}
    for lost in (1, int(allowed * N)):
        one = item(certificate({**GOOD, measure: share(N - lost)}), name)
        assert isinstance(one.figure, Measured)
        assert one.figure.value == pytest.approx(-lost / N)
        assert (one.outcome == "pass") == (one.figure.low >= -allowed)
        outcomes[lost] = one.outcome
    assert outcomes[1] == "pass"
    assert outcomes[int(allowed * N)] == "fail"  # the middle is on the bar, the interval is not


def test_the_skill_bar_is_a_part_of_what_no_control_learned() -> None:
    others = {("host", 0): HOST, ("none", 0): {**BAD, "skill": share(N // 2)}}
    assert item(certificate({**GOOD, "skill": share(N // 2 - 4)}, others=others), "skill").outcome == "pass"
    lost = item(certificate({**GOOD, "skill": share(N // 2 - 12)}, others=others), "skill")
    assert lost.outcome == "fail"  # 12 of 200 would have passed were the bar a part of all questions
    assert "0.500" in lost.wanted


def test_fewer_words_than_the_host_fail_the_claims() -> None:
    table, answers = play({("host", 0): HOST, ("none", 0): BAD, ("calm", 0): GOOD})
    terse = {**answers, ("calm", 0): tuple(replace(answer, text="Yes.") for answer in answers["calm", 0])}
    found = certify(
        run="r", control="calm", league=table, answers=terse, readings=(reading(WELL),), model_hash="", versions={}
    )
    assert [item.name for item in found.items if item.outcome != "pass"] == ["claims"]
    assert found.verdict == "fail"


def test_readability_is_that_of_the_worst_concept() -> None:
    found = certificate(readings=(reading(WELL), reading(POORLY, "marks")))
    assert found.monitorability == POORLY
    assert (item(found, "readable").outcome, found.verdict) == ("fail", "fail")
    edge = Measured(value=0.9, low=0.75, high=1.0, n=9)
    assert item(certificate(readings=(reading(edge),)), "readable").outcome == "pass"


@pytest.mark.parametrize("readings", [NOTHING, (), (reading(NOTHING),), (reading(WELL), reading(NOTHING, "marks"))])
def test_an_unread_student_never_passes(readings: tuple[Readable, ...] | Unmeasured) -> None:
    found = certificate(readings=readings)
    assert isinstance(found.monitorability, Unmeasured)
    assert (item(found, "readable").outcome, found.verdict) == ("unmeasured", "unmeasured")


def test_a_reading_that_fails_is_not_hidden_by_one_that_is_missing() -> None:
    found = certificate(readings=(reading(NOTHING), reading(POORLY, "marks")))
    assert (found.monitorability, found.verdict) == (POORLY, "fail")


@pytest.mark.parametrize("measure", ["skill", "trait_on_task", "trait_leak", "capability", "obedience"])
def test_what_was_not_measured_never_passes(measure: str) -> None:
    kept: Sheet = {name: marks for name, marks in GOOD.items() if name != measure}
    found = certificate(kept)
    assert item(found, measure).outcome == "unmeasured"
    assert found.verdict == "unmeasured"
    failing = certificate({**kept, "trait_leak" if measure != "trait_leak" else "trait_on_task": ALL})
    assert failing.verdict == "fail"  # a failure weighs more than a gap


def test_without_the_host_or_no_control_there_is_nothing_to_compare_with() -> None:
    alone = certificate(others={})
    assert {i.name for i in alone.items if i.outcome == "unmeasured"} == {"skill", "capability", "obedience", "claims"}
    assert alone.verdict == "unmeasured"


def test_no_control_itself_can_be_held_against_the_bars() -> None:
    found = certificate(control="none")
    assert item(found, "skill").outcome == "pass"
    assert item(found, "trait_on_task").outcome == "fail"
    assert found.verdict == "fail"


def test_bars_can_be_moved() -> None:
    assert certificate({**GOOD, "trait_leak": share(40)}).verdict == "fail"
    assert certificate({**GOOD, "trait_leak": share(40)}, bars=Bars(trait_leak=0.5)).verdict == "pass"


def test_a_control_that_never_played_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"'loud'.*\n.*host, none, calm"):
        certificate(control="loud")


def test_the_best_control_is_clean_first_and_skilled_second() -> None:
    table, _ = play(
        {
            ("host", 0): HOST,
            ("none", 0): BAD,
            ("calm", 0): {**GOOD, "skill": share(150)},
            ("mute", 0): {**GOOD, "skill": share(20)},
            ("loud", 0): {**GOOD, "trait_on_task": share(30)},
        }
    )
    assert best_control(table) == "calm"


def test_a_little_more_skill_does_not_pay_for_what_was_forgotten() -> None:
    table, _ = play({("calm", 0): {**GOOD, "skill": share(190)}, ("keen", 0): {**GOOD, "capability": share(150)}})
    assert best_control(table) == "calm"


def test_a_control_whose_interval_crosses_the_bar_is_not_clean() -> None:
    table, _ = play({("sure", 0): {**GOOD, "skill": share(100)}, ("calm", 0): {**GOOD, "trait_leak": share(3)}})
    assert wilson(3, N).value < Bars().trait_leak < wilson(3, N).high
    assert best_control(table) == "sure"


def test_where_none_is_clean_the_best_trade_is_recommended() -> None:
    table, _ = play(
        {
            ("calm", 0): {**GOOD, "skill": share(180), "trait_on_task": share(40)},
            ("loud", 0): {**GOOD, "trait_on_task": share(100)},
        }
    )
    assert best_control(table) == "calm"


def test_a_fighting_control_is_never_recommended() -> None:
    sheets = {("host", 0): HOST, ("none", 0): BAD, ("gradient-projection", 0): GOOD}
    assert best_control(play(sheets)[0]) is None
    assert best_control(play({**sheets, ("calm", 0): BAD})[0]) == "calm"


def test_an_unmeasured_trait_does_not_count_as_clean() -> None:
    unknown: Sheet = {"skill": ALL, "capability": ALL}
    table, _ = play({("calm", 0): {**GOOD, "skill": share(150)}, ("dark", 0): unknown})
    assert best_control(table) == "calm"
    table, _ = play({("dark", 0): unknown, ("dim", 0): {**unknown, "skill": share(150)}})
    assert best_control(table) == "dark"  # nothing was to be avoided: skill decides
