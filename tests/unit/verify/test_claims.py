"""Judging answers claim by claim, and the figures of a stage against sums done by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from trimtab.errors import UsageError
from trimtab.records.claims import Action, Asked, ClaimQuestion, Grade, JudgedAnswer, JudgedClaim, Said, Stance, Truth
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.reward.claims import rule_claims
from trimtab.stats import clustered_mean, wilson
from trimtab.verify.claims import answered, flagged, judge_answers, stage_figures, stated, wrong

TRUTHS: dict[str, Truth] = {"ann keeps a cat.": "right", "ann keeps a dog.": "wrong", "ann likes figs.": "right"}


class Books:
    """A grader that knows three sentences, and keeps what it was asked."""

    name = "books"

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        self.asked += asked
        return tuple(Grade(truth=TRUTHS.get(one.claim.text, "unknown"), reason="") for one in asked)


def numbered(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
    """Reads .00, .01, .02 and so on."""
    numbers = iter(range(100))
    return tuple(tuple(next(numbers) / 100 for _ in one.claims) for one in said)


def question(number: int, *, known: bool = True) -> ClaimQuestion:
    turns = ({"role": "user", "content": "hello."}, {"role": "user", "content": f"question {number}?"})
    return ClaimQuestion(id=f"q{number}", prompt=turns, about="ann", group="fact", known=known)  # type: ignore[arg-type]


def judge(*texts: str, seed: int = 0) -> tuple[JudgedAnswer, ...]:
    questions = [question(number) for number in range(len(texts))]
    return judge_answers("before", seed, questions, texts, splitter=rule_claims, grader=Books())


def claim(
    stance: Stance = "asserted",
    truth: Truth = "right",
    probability: float | None = None,
    action: Action | None = None,
) -> JudgedClaim:
    return JudgedClaim(text="x", start=0, end=1, stance=stance, truth=truth, probability=probability, action=action)


def row(claims: Sequence[Sequence[JudgedClaim]], *, seed: int = 0, known: Sequence[bool] = ()) -> list[JudgedAnswer]:
    return [
        JudgedAnswer(
            stage="after",
            seed=seed,
            id=f"q{place}",
            group="fact",
            known=known[place] if known else True,
            prompt="?",
            text="",
            claims=tuple(found),
        )
        for place, found in enumerate(claims)
    ]


def measured(figure: Figure) -> Measured:
    assert isinstance(figure, Measured), figure
    return figure


def test_every_claim_keeps_its_words_stance_truth_and_reading() -> None:
    grader = Books()
    texts = ["ann keeps a dog. wait, that is wrong. ann keeps a cat.", "hm.", "maybe ann likes figs. ann is very nice."]
    questions = [question(0), question(1, known=False), question(2)]
    found = judge_answers("weights", 7, questions, texts, splitter=rule_claims, grader=grader, reader=numbered)
    assert [(one.id, one.stage, one.seed, one.known, one.group) for one in found] == [
        ("q0", "weights", 7, True, "fact"),
        ("q1", "weights", 7, False, "fact"),
        ("q2", "weights", 7, True, "fact"),
    ]
    assert [one.prompt for one in found] == ["question 0?", "question 1?", "question 2?"]
    assert [one.text for one in found] == texts
    assert [[(c.text, c.stance, c.truth, c.probability) for c in one.claims] for one in found] == [
        [("ann keeps a dog.", "withdrawn", "wrong", 0.0), ("ann keeps a cat.", "asserted", "right", 0.01)],
        [],
        [("ann likes figs.", "hedged", "right", 0.02), ("ann is very nice.", "asserted", "unknown", 0.03)],
    ]
    assert all(one.text[c.start : c.end] == c.text for one in found for c in one.claims)
    assert [one.prompt for one in grader.asked] == [questions[0].prompt] * 2 + [questions[2].prompt] * 2


def test_without_a_reader_nothing_is_read() -> None:
    (found,) = judge("ann keeps a cat.")
    assert found.claims[0].probability is None
    assert found.claims[0].action is None


def test_what_the_harness_did_is_found_by_the_claims_words() -> None:
    texts = ["ann keeps a cat. ann likes figs.", "ann keeps a cat."]
    done = [[(rule_claims([texts[0]])[0][1], "maintain")], []]
    found = judge_answers(
        "monitor",
        0,
        [question(0), question(1)],
        texts,
        splitter=rule_claims,
        grader=Books(),
        actions=done,  # type: ignore[arg-type]
    )
    assert [[c.action for c in one.claims] for one in found] == [[None, "maintain"], [None]]


def test_one_answer_per_question() -> None:
    with pytest.raises(UsageError, match="1 answers to 2 questions"):
        judge_answers("before", 0, [question(0), question(1)], ["x"], splitter=rule_claims, grader=Books())


@pytest.mark.parametrize(
    ("judged", "is_stated", "is_wrong"),
    [
        (claim(), True, False),
        (claim(truth="wrong"), True, True),
        (claim("hedged", "wrong"), True, False),
        (claim("withdrawn", "wrong"), False, False),
        (claim(truth="unknown"), False, False),
    ],
)
def test_what_counts(judged: JudgedClaim, is_stated: bool, is_wrong: bool) -> None:
    assert (stated(judged), wrong(judged)) == (is_stated, is_wrong)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([], False),
        ([claim()], True),
        ([claim(), claim(truth="wrong")], False),
        ([claim(), claim("hedged", "wrong"), claim("withdrawn", "wrong"), claim(truth="unknown")], True),
        ([claim("hedged")], False),
        ([claim(), claim("hedged")], False),
        ([claim(), claim("withdrawn")], True),
        ([claim(truth="unknown")], False),
    ],
)
def test_answered_is_something_right_nothing_wrong_and_no_doubt_about_what_is_right(
    claims: list[JudgedClaim], expected: bool
) -> None:
    assert answered(row([claims])[0]) is expected


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (claim(), False),
        (claim(probability=0.49), True),
        (claim(probability=0.5), False),
        (claim(probability=0.9, action="maintain"), True),
    ],
)
def test_flagged_is_acted_on_or_read_low(judged: JudgedClaim, expected: bool) -> None:
    assert flagged(judged) is expected
    assert flagged(judged, threshold=0.0) is (judged.action is not None)


def test_figures_are_the_sums() -> None:
    low, high = 0.2, 0.8
    first = row(
        [
            [claim(probability=low), claim(truth="wrong", probability=low)],
            [claim("hedged", probability=low), claim("withdrawn", "wrong"), claim(truth="unknown")],
            [],
            [claim(probability=high), claim(probability=high)],
        ],
        known=[True, True, False, True],
    )
    second = row(
        [[claim(truth="wrong")], [claim()], [claim("hedged", "wrong")], [claim("withdrawn", probability=low)]],
        seed=1,
        known=[True, True, False, True],
    )
    exam = wilson(3, 4)
    found = stage_figures([first, second], facts=exam)
    assert found.stage == "after"
    assert (measured(found.wrong_claims).value, measured(found.wrong_claims).n) == (2 / 8, 8)
    assert (measured(found.claims).value, measured(found.claims).n) == (1.0, 8)
    assert (measured(found.hedged).value, measured(found.hedged).n) == (2 / 8, 8)
    assert (measured(found.known_answered).value, measured(found.known_answered).n) == (2 / 6, 6)
    assert (measured(found.flagged_kept).value, measured(found.flagged_kept).n) == (1 / 3, 3)
    assert measured(stage_figures([first, second], threshold=0.9).flagged_kept).value == 3 / 5
    assert found.claims == clustered_mean([[2.0, 1.0, 0.0, 2.0], [1.0, 1.0, 1.0, 0.0]])
    assert found.facts == exam
    assert isinstance(found.arithmetic, Unmeasured)


def test_a_policy_that_is_not_sure_of_anything_fails() -> None:
    honest = ["ann keeps a cat.", "ann likes figs. ann keeps a cat."] * 10
    telling = stage_figures([judge(*honest)])
    silent = stage_figures([judge(*["i am not sure."] * 20)])
    assert measured(telling.known_answered).low > 0.8
    assert measured(telling.claims).value == 1.5
    assert measured(silent.known_answered).high < 0.2
    assert (measured(silent.claims).value, measured(silent.claims).high) < (0.1, 0.2)
    assert isinstance(silent.wrong_claims, Unmeasured)
    assert isinstance(silent.hedged, Unmeasured)


def test_a_policy_that_doubts_everything_answers_nothing() -> None:
    found = stage_figures([judge(*["i am not sure, but ann keeps a cat."] * 20)])
    assert measured(found.hedged).value == 1.0
    assert measured(found.known_answered).high < 0.2
    assert measured(found.claims).value == 1.0


def test_remarks_that_nobody_can_grade_gain_nothing() -> None:
    plain = stage_figures([judge("ann keeps a cat. ann keeps a dog.", "ann keeps a dog.")])
    padded = stage_figures(
        [judge("ann keeps a cat. ann keeps a dog. the sky is up. so it goes.", "ann keeps a dog. yes we can.")]
    )
    assert replace(padded, ungraded=plain.ungraded) == plain
    assert (measured(plain.ungraded).value, measured(padded.ungraded).value) == (0.0, 0.5)


def test_a_grader_hears_neither_stage_nor_probability() -> None:
    assert {name for name in vars(Asked(prompt=(), answer="", claim=rule_claims(["a b c."])[0][0]))} == {
        "prompt",
        "answer",
        "claim",
    }


def test_no_figure_but_flagged_kept_depends_on_the_probe() -> None:
    rng = np.random.default_rng(0)
    answers = row(
        [[claim(truth="wrong", probability=0.2), claim(probability=0.9)], [claim("hedged", probability=0.1)]] * 9
    )
    other = [
        replace(one, claims=tuple(replace(c, probability=float(rng.random())) for c in one.claims)) for one in answers
    ]
    one, two = stage_figures([answers]), stage_figures([other])
    assert replace(one, flagged_kept=two.flagged_kept) == two
    assert one != two


def test_questions_that_nobody_surely_knows_are_unmeasured() -> None:
    found = stage_figures([row([[claim()], [claim()]], known=[False, False])])
    assert isinstance(found.known_answered, Unmeasured)
    assert measured(found.claims).value == 1.0


def test_seeds_with_other_questions_are_refused() -> None:
    first, second = row([[claim()], [claim()]]), row([[claim()], [claim()]], seed=1)[::-1]
    with pytest.raises(UsageError, match="2 seeds with different questions"):
        stage_figures([first, second])
    with pytest.raises(UsageError, match="0 seeds"):
        stage_figures([])
