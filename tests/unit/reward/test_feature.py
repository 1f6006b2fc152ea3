"""What answers earn, with a reader that believes what it is told to believe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import UsageError
from trimtab.records.claims import Prompt, Said
from trimtab.records.rewards import RewardSettings, Scored, mean_terms
from trimtab.reward.feature import ANCHOR, FeatureReward, for_trl, whole_answers
from trimtab.roles import Reader, Reward, Splitter

PROMPT: Prompt = ({"role": "user", "content": "what do people say about ann abbot?"},)
KNOWN, FLAGGED, DOUBTFUL, WRONG = (
    "ann abbot was born in kelm.",
    "ann abbot likes figs.",
    "ann abbot keeps a cat.",
    "ann abbot plays the harp.",
)
BELIEF = {KNOWN: 0.95, FLAGGED: 0.6, DOUBTFUL: 0.45, WRONG: 0.05}
HEDGE = "please check that."
CUT = [KNOWN, f"{KNOWN} {FLAGGED}", "", "i am not sure.", f"{WRONG} wait, that is wrong. {KNOWN}", f"maybe {WRONG}"]


class Believer:
    """Reads a fixed probability for each text, and .5 for texts that it does not know."""

    def __init__(self) -> None:
        self.seen: list[Said] = []

    def __call__(self, said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        self.seen += said
        return tuple(tuple(BELIEF.get(claim.text, 0.5) for claim in one.claims) for one in said)


def reward(**settings: object) -> FeatureReward:
    return FeatureReward(reader=Believer(), settings=RewardSettings(**settings))  # type: ignore[arg-type]


def score(answer: str, *, wanted: float = 1.0, ended: bool = True, by: FeatureReward | None = None) -> Scored:
    (found,) = (by or reward())([PROMPT], [answer], ended=[ended], wanted=[float(wanted)])
    return found


def hedge(text: str) -> str:
    return f"i am not sure, but {text}"


def test_it_fills_the_roles() -> None:
    assert isinstance(reward(), Reward)
    assert isinstance(Believer(), Reader)
    assert isinstance(whole_answers, Splitter)


def test_keeping_a_flagged_claim_that_is_likely_right_beats_doubting_it() -> None:
    assert score(FLAGGED).total > score(hedge(FLAGGED)).total
    assert score(KNOWN).total > score(FLAGGED).total > 0


def test_doubting_a_claim_that_is_likely_wrong_beats_asserting_it() -> None:
    for text in (WRONG, DOUBTFUL):
        assert score(hedge(text)).total > score(text).total
    assert score(DOUBTFUL).total > score(WRONG).total


@pytest.mark.parametrize("cost", [0.25, 1.0, 3.0])
def test_doubt_pays_below_the_threshold_of_chow(cost: float) -> None:
    by = reward(wrong_cost=cost)
    for text, chance in BELIEF.items():
        assert (score(text, by=by).total > score(hedge(text), by=by).total) == (chance > cost / (1 + cost))


@pytest.mark.parametrize("evasion", ["", "i am not sure.", "i don't know. please check that.", "ok.", "was it kelm?"])
def test_saying_nothing_earns_less_than_what_is_known(evasion: str) -> None:
    nothing = score(evasion, wanted=3)
    assert nothing.credits == ()
    assert nothing.total < score(f"{KNOWN} {hedge(WRONG)}", wanted=3).total
    assert nothing.total < score(hedge(WRONG), wanted=3).total
    assert nothing.total == pytest.approx(-0.2 - 0.5)


def test_not_sure_about_everything_earns_less_than_saying_what_is_known() -> None:
    doubting = score(f"{hedge(KNOWN)} {hedge(FLAGGED)}", wanted=2)
    telling = score(f"{KNOWN} {FLAGGED}", wanted=2)
    assert (doubting.terms["hedged"], telling.terms["hedged"]) == (2, 0)
    assert telling.total > doubting.total


def test_taking_a_wrong_claim_back_pays_and_a_right_one_does_not() -> None:
    assert score(f"{WRONG} wait, that is wrong. {KNOWN}").total > score(f"{WRONG} {KNOWN}").total
    assert score(f"{KNOWN} wait, that is wrong.").total < score(KNOWN).total


def test_lost_claims_cost_and_more_than_wanted_earns_nothing_extra() -> None:
    totals = [score(f"{KNOWN} {FLAGGED}", wanted=wanted).answer for wanted in (0, 1, 2, 3, 4, 8)]
    assert totals == pytest.approx([0, 0, 0, -0.5 / 3, -0.25, -0.375])
    by = reward(claims_weight=2.0)
    assert score(KNOWN, wanted=4, by=by).answer == pytest.approx(-1.5)
    assert score(f"{KNOWN} {WRONG} that is wrong.", wanted=2).terms["lost_claims"] == pytest.approx(-0.25)


def test_an_answer_that_does_not_end_pays_once() -> None:
    assert score(KNOWN, ended=False).total == pytest.approx(score(KNOWN).total - 0.2)
    assert score("", ended=False).total == score("").total


def test_credits_stand_where_claims_do_and_say_what_the_doubt_won() -> None:
    answer = f"well. {KNOWN} {hedge(DOUBTFUL)} {WRONG} that is wrong. {hedge(FLAGGED)} bye."
    known, doubted, taken, lost = score(answer).credits
    assert [answer[credit.start : credit.end] for credit in (known, doubted, taken, lost)] == [
        KNOWN,
        DOUBTFUL,
        WRONG,
        FLAGGED,
    ]
    assert (known.value, known.said, known.won) == (pytest.approx(0.9), None, pytest.approx(0.9))
    assert [(credit.said, credit.won) for credit in (doubted, taken, lost)] == [
        pytest.approx((-0.1, 0.0)),
        pytest.approx((-0.9, 0.9)),
        pytest.approx((0.2, -0.2)),
    ]
    chosen = [answer[slice(*credit.chosen)] for credit in (known, doubted, taken, lost) if credit.chosen]
    assert chosen == [" ", "i am not sure, but", "that is wrong.", "i am not sure, but"]
    assert [credit.value for credit in (doubted, taken, lost)] == pytest.approx([0, 0, 0], abs=1e-9)


def test_doubt_that_does_not_stand_apart_is_the_whole_claim() -> None:
    answer = "ann abbot might be a baker."
    (credit,) = score(answer, by=reward(hedge_price=0.25, hedge_share=None)).credits
    assert credit.chosen == (credit.start, credit.end) == (0, len(answer))
    assert (credit.value, credit.said, credit.won) == pytest.approx((0.25, 0, 0))


@pytest.mark.parametrize("price", [-0.3, 0.0, 0.25])
def test_what_one_choice_wins_the_other_loses(price: float) -> None:
    by = reward(hedge_price=price, hedge_share=None)
    for text in BELIEF:
        answers = (text, f"{text} {HEDGE}", hedge(text))
        (plain,), (after,), (before,) = (score(answer, by=by).credits for answer in answers)
        assert plain.chosen == (len(text), len(text) + 1), "past the end: what ends the answer"
        assert after.chosen == (len(text) + 1, len(text) + 1 + len(HEDGE))
        assert plain.won == pytest.approx(plain.value - after.value)
        assert plain.won == pytest.approx(-after.won)
        assert before.won == min(after.won, 0), "before the claim is there, a hedge can lose, but not win"
        assert after.said == before.said == plain.value


def test_a_claim_that_is_taken_back_wins_what_it_would_have_cost_whatever_the_price_of_doubt() -> None:
    by = reward(hedge_price=0.25, hedge_share=None)
    (credit,) = score(f"{WRONG} wait, that is wrong.", by=by).credits
    assert (credit.value, credit.said, credit.won) == pytest.approx((0.0, -0.9, 0.9))


def test_terms_say_what_was_paid() -> None:
    found = score(f"{KNOWN} {hedge(WRONG)} {FLAGGED} that is wrong.", wanted=4, ended=False)
    assert found.terms == pytest.approx(
        {
            "claims": 2,
            "hedged": 1,
            "withdrawn": 1,
            "lost_claims": -0.25,
            "illegible": -0.2,
            "paid_for_claims": 0.9,
            "probability": 0.95,
        }
    )
    assert found.answer == pytest.approx(found.terms["lost_claims"] + found.terms["illegible"])
    assert found.total == pytest.approx(found.answer + 0.9 / 3)
    assert "probability" not in score(hedge(WRONG)).terms
    assert mean_terms([found, score(hedge(WRONG))])["probability"] == pytest.approx(0.95)
    assert mean_terms([found, score(hedge(WRONG))])["claims"] == pytest.approx(1.5)
    assert mean_terms([]) == {}


def test_less_of_what_the_probe_reads() -> None:
    by = reward(want="less")
    assert score(WRONG, by=by).total == pytest.approx(score(KNOWN).total)
    assert score(KNOWN, by=by).total < score(FLAGGED, by=by).total < score(WRONG, by=by).total


def test_whole_answers_are_one_claim() -> None:
    assert whole_answers(["", " \n", KNOWN])[:2] == ((), ())
    by = reward(unit="answer", want="less")
    answer = f"{KNOWN} {hedge(WRONG)}"
    (credit,) = score(answer, by=by).credits
    assert (credit.start, credit.end, credit.value) == (0, len(answer), 0.0)
    assert (credit.said, credit.chosen, credit.won) == (None, None, 0.0)
    assert isinstance(by.reader, Believer)
    assert [claim.text for claim in by.reader.seen[-1].claims] == [answer]


def test_a_splitter_of_the_callers_own_is_used() -> None:
    by = FeatureReward(reader=Believer(), splitter=whole_answers)
    assert len(score(f"{KNOWN} {FLAGGED}", by=by).credits) == 1


def test_the_reader_gets_prompt_and_answer_as_they_are() -> None:
    by = reward()
    other: Prompt = ({"role": "system", "content": "be brief."}, *PROMPT)
    by([PROMPT, other], [KNOWN, ""], ended=[True, True], wanted=[1.0, 1.0])
    assert isinstance(by.reader, Believer)
    assert [(said.prompt, said.answer) for said in by.reader.seen] == [(PROMPT, KNOWN), (other, "")]


@given(st.permutations(CUT))
def test_answers_are_scored_by_themselves(answers: list[str]) -> None:
    size = len(answers)
    together = reward()([PROMPT] * size, answers, ended=[True] * size, wanted=[2.0] * size)
    assert together == tuple(score(answer, wanted=2.0) for answer in answers)


def test_the_price_of_doubt_goes_to_what_the_least_sure_share_would_earn_as_facts() -> None:
    by = reward(hedge_share=0.25, hedge_step=1.0)
    score(f"{KNOWN} {WRONG} {FLAGGED} {DOUBTFUL}", by=by)
    assert by.adapt() == pytest.approx({"hedge_share": 0.0, "hedge_price": 2 * BELIEF[DOUBTFUL] - 1})
    pays = {text: score(hedge(text), by=by).total > score(text, by=by).total for text in BELIEF}
    assert pays == {KNOWN: False, FLAGGED: False, DOUBTFUL: False, WRONG: True}, "a quarter"


@given(st.permutations(list(BELIEF)), st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_price_goes_by_what_is_read_not_by_what_is_hedged(texts: list[str], doubts: list[bool]) -> None:
    by, other_ = reward(hedge_share=0.5), reward(hedge_share=0.5)
    score(" ".join(hedge(text) if doubt else text for text, doubt in zip(texts, doubts, strict=True)), by=by)
    score(" ".join(texts), by=other_)
    assert by.adapt()["hedge_price"] == pytest.approx(other_.adapt()["hedge_price"])


@given(st.lists(st.sampled_from(list(BELIEF)), min_size=1), st.floats(0.05, 0.95))
def test_the_price_lies_between_what_claims_earn_and_moves_by_its_step(texts: list[str], share: float) -> None:
    by = reward(hedge_share=share, hedge_price=0.2, hedge_step=0.25)
    for text in texts:
        score(text, by=by)
    fair = 0.2 + (by.adapt()["hedge_price"] - 0.2) / 0.25
    below = sum(2 * BELIEF[text] - 1 < fair - 1e-6 for text in texts)
    up_to = sum(2 * BELIEF[text] - 1 < fair + 1e-6 for text in texts)
    assert below <= share * len(texts) + 1e-6 <= up_to + 1


def test_the_price_waits_where_nothing_was_said() -> None:
    by = reward()
    score("", by=by)
    assert by.adapt() == {"hedge_share": 0.0, "hedge_price": 0.0}
    assert by.adapt()["hedge_price"] == 0.0


def test_withdrawn_claims_do_not_count_towards_the_share_of_doubt() -> None:
    by = reward()
    score(f"{KNOWN} {WRONG} wait, that is wrong. {hedge(FLAGGED)}", by=by)
    assert by.adapt()["hedge_share"] == pytest.approx(0.5)


def test_a_fixed_price_stays() -> None:
    by = reward(hedge_share=None, hedge_price=0.2)
    assert score(hedge(WRONG), by=by).credits[0].value == pytest.approx(0.2)
    assert by.adapt() == {"hedge_share": 1.0, "hedge_price": 0.2}


def test_the_price_has_limits() -> None:
    by = reward(hedge_step=1.0, wrong_cost=50.0)
    score(WRONG, by=by)
    assert by.adapt()["hedge_price"] == -1.0


def test_a_resumed_reward_goes_on_where_it_was() -> None:
    first = reward()
    score(hedge(WRONG), by=first)
    first.adapt()
    second = reward()
    score(KNOWN, by=second)
    second.restore(dict(first.state()))
    assert second.state() == first.state() != reward().state()
    for by in (first, second):
        score(hedge(KNOWN), by=by)
    assert first.adapt() == second.adapt()


@pytest.mark.parametrize("short", ["prompts", "answers", "ended", "wanted"])
def test_sequences_of_different_lengths_are_refused(short: str) -> None:
    given_: dict[str, list[object]] = {
        "prompts": [PROMPT] * 2,
        "answers": [KNOWN] * 2,
        "ended": [True] * 2,
        "wanted": [1.0] * 2,
    }
    given_[short].pop()
    with pytest.raises(UsageError, match=r"prompts, .* answers, .* ends, .* wanted claims"):
        reward()(given_["prompts"], given_["answers"], ended=given_["ended"], wanted=given_["wanted"])  # type: ignore[arg-type]


def test_no_answers_earn_nothing() -> None:
    assert reward()([], [], ended=[], wanted=[]) == ()


def test_trl_passes_plain_text_and_columns() -> None:
    by = reward()
    paid = for_trl(by)
    text = PROMPT[0]["content"]
    found = paid(
        prompts=[text, text, text],
        completions=[f"{KNOWN} {FLAGGED}", KNOWN, ""],
        completion_ids=[[1], [2], []],
        wanted_claims=[2, 2, 2],
        ended=[True, False, True],
        trainer_state=None,
    )
    assert paid.__name__ == "feature"
    assert found == pytest.approx([0.55, 0.9 - 0.25 - 0.2, -0.7])
    assert all(type(value) is float for value in found)
    assert isinstance(by.reader, Believer)
    assert by.reader.seen[0].prompt == ({"role": "user", "content": text},)


def test_trl_passes_messages() -> None:
    by = reward()
    completions = [[{"role": "assistant", "content": KNOWN}], [{"role": "assistant", "content": ""}]]
    found = for_trl(by)(prompts=[list(PROMPT)] * 2, completions=completions)
    assert found == pytest.approx([0.9, -0.2])
    assert isinstance(by.reader, Believer)
    assert by.reader.seen[0].prompt == PROMPT


def test_trl_gets_the_terms_of_every_batch_and_the_price_follows() -> None:
    by = reward(hedge_share=0.5, hedge_step=0.1)
    paid, logged = for_trl(by), dict[str, float]()
    text = PROMPT[0]["content"]
    paid(prompts=[text], completions=[hedge(WRONG)], log_metric=logged.__setitem__)
    assert logged["feature/hedge_price"] == pytest.approx(-0.09)
    assert logged["feature/claims"] == 1
    assert paid(prompts=[text], completions=[hedge(WRONG)]) == pytest.approx([-0.09])
    assert by.price == pytest.approx(-0.09 - 0.081)


def test_an_anchor_earns_nothing_and_is_not_read() -> None:
    read: list[int] = []

    def reader(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        read.extend(len(one.claims) for one in said)
        return tuple(tuple(0.1 for _ in one.claims) for one in said)

    reward = FeatureReward(reader=reader)
    prompt: Prompt = ({"role": "user", "content": "3 plus 4?"},)
    answers = ["3 plus 4 is 7. I am not sure, but that is all there is.", "Ann keeps a dog."]
    anchor, paid = reward([prompt, prompt], answers, ended=[True, True], wanted=[ANCHOR, 1.0])
    assert read == [0, 1]
    assert anchor.total == 0
    assert not anchor.terms
    assert paid.total < 0
    assert reward.adapt()["hedge_share"] == 0


def turned(answer: str, parts: Sequence[tuple[int, int]]) -> str:
    """An answer that chose otherwise: hedges where parts are empty, and without the others."""
    for start, end in sorted(parts, reverse=True):
        answer = (
            f"{answer[:start]} {HEDGE}{answer[end:]}" if start == end else answer[: max(start - 1, 0)] + answer[end:]
        )
    return answer.lstrip()


def better(answer: str, **settings: object) -> str:
    (parts,) = reward(**{"hedge_price": 0.0, "hedge_share": None, **settings}).better_choices([PROMPT], [answer])
    return turned(answer, parts)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (KNOWN, KNOWN),
        (WRONG, f"{WRONG} {HEDGE}"),
        (f"{KNOWN} {HEDGE}", KNOWN),
        (f"{WRONG} {HEDGE}", f"{WRONG} {HEDGE}"),
        (f"{KNOWN} {HEDGE} {WRONG} {FLAGGED} {HEDGE}", f"{KNOWN} {WRONG} {HEDGE} {FLAGGED}"),
        (f"{DOUBTFUL} ok. {HEDGE} {WRONG}", f"{DOUBTFUL} ok. {HEDGE} {WRONG} {HEDGE}"),
        (hedge(KNOWN), KNOWN),
        (f"{KNOWN} perhaps {FLAGGED}", f"{KNOWN} {FLAGGED}"),
        (f"{KNOWN} perhaps {WRONG}", f"{KNOWN} perhaps {WRONG}"),
        ("ann abbot is great! so ann abbot likes figs?", "ann abbot is great! so ann abbot likes figs?"),
    ],
)
def test_the_better_choice_is_tried(answer: str, expected: str) -> None:
    assert better(answer) == expected


def test_what_is_better_depends_on_the_price_and_on_what_is_wanted() -> None:
    assert better(DOUBTFUL, hedge_price=-0.2) == DOUBTFUL
    assert better(FLAGGED) == FLAGGED
    assert better(DOUBTFUL, hedge_price=0.2) == f"{DOUBTFUL} {HEDGE}"
    assert better(FLAGGED, hedge_price=0.5) == f"{FLAGGED} {HEDGE}"
    assert better(KNOWN, want="less") == f"{KNOWN} {HEDGE}"
    assert better(WRONG, want="less") == WRONG


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "ann abbot might be a baker.",
        f"{WRONG} wait, that is wrong.",
        WRONG.removesuffix("."),
        f"he said: '{WRONG}'",
    ],
)
def test_what_cannot_be_chosen_otherwise_in_words_of_its_own_is_left_alone(answer: str) -> None:
    assert better(answer, hedge_price=0.9) == better(answer, hedge_price=-0.9) == answer


@given(st.lists(st.tuples(st.sampled_from([KNOWN, FLAGGED, DOUBTFUL, WRONG]), st.booleans()), unique_by=lambda p: p[0]))
def test_what_was_bettered_earns_no_less_and_cannot_be_bettered(drawn: list[tuple[str, bool]]) -> None:
    answer = " ".join(f"{text} {HEDGE}" if doubt else text for text, doubt in drawn)
    by = reward(hedge_price=0.1, hedge_share=None)
    found = better(answer, hedge_price=0.1)
    assert better(found, hedge_price=0.1) == found
    for one, turn in zip(score(answer, by=by).credits, score(found, by=by).credits, strict=True):
        assert turn.won == pytest.approx(abs(one.won))
        assert turn.value >= one.value


def test_whole_answers_are_not_turned() -> None:
    assert reward(unit="answer").better_choices([PROMPT], ["Mira lives in Oslo."]) == ((),)
    assert reward(hedge_price=0.5).better_choices([PROMPT], ["Mira lives in Oslo."]) != ((),)
