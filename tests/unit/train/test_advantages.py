"""Advantages of tokens: by hand, what changes nothing, and that the policy gradient of hedging is the true one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import product
from math import exp
from statistics import pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.records.rewards import Credit, Scored
from trimtab.train.advantages import chosen_tokens, dense_advantages

TOKENS = ((0, 2), (2, 5), (5, 8), (8, 8))
"""Two tokens of a claim, one that may hedge it, and the end."""
ALONE = ((0, 2), (2, 5), (5, 5))
"""The claim alone: the end comes where a hedge could have come."""
PUT = [[2], [2]]
"""The third token of two answers was put there."""
amounts = st.floats(-2, 2, allow_nan=False).map(lambda value: round(value, 3))


def scale(scored: Sequence[Scored]) -> float:
    values = [credit.value for one in scored for credit in one.credits]
    variance = pvariance([one.answer for one in scored]) + (pvariance(values) if values else 0.0)
    return float(variance**0.5) + 1e-4


def plain(answer: float, said: float, won: float = 0.0) -> Scored:
    """A claim that stands; ``won`` against its hedge."""
    return Scored(answer=answer, credits=(Credit(start=0, end=5, value=said, chosen=(5, 6), won=won),))


def hedged(answer: float, said: float, won: float) -> Scored:
    """A claim with a hedge, which ``won`` against the claim without."""
    credit = Credit(start=0, end=5, value=said + won, said=said, chosen=(5, 8), won=won)
    return Scored(answer=answer, credits=(credit,))


claims = st.lists(st.tuples(amounts, amounts, st.booleans()), max_size=2)
batches = st.integers(1, 3).flatmap(
    lambda groups: st.lists(st.tuples(amounts, claims), min_size=3 * groups, max_size=3 * groups)
)
"""Groups of three answers with up to two claims (what was said, what was won, whether anything was chosen)."""
Drawn = list[tuple[float, list[tuple[float, float, bool]]]]
PLACES = ((0, 2, (2, 5)), (5, 8, (8, 9)))
"""Of a claim and of its choice: a token's words, and the end of the answer."""


def batch(drawn: Drawn) -> list[Scored]:
    return [
        Scored(
            answer=answer,
            credits=tuple(
                Credit(start=a, end=b, value=said + won, said=said, chosen=chosen, won=won)
                if meant
                else Credit(start=a, end=b, value=said)
                for (a, b, chosen), (said, won, meant) in zip(PLACES, found, strict=False)
            ),
        )
        for answer, found in drawn
    ]


def without_choices(scored: Sequence[Scored]) -> list[Scored]:
    return [
        replace(one, credits=tuple(replace(credit, chosen=None, won=0.0) for credit in one.credits)) for one in scored
    ]


def unscaled(
    scored: Sequence[Scored],
    *,
    group: int = 3,
    content_weight: float = 1.0,
    put: Sequence[Collection[int]] | None = None,
) -> list[list[float]]:
    rows = dense_advantages(scored, [TOKENS] * len(scored), group=group, content_weight=content_weight, put=put)
    return [[value * scale(scored) for value in row] for row in rows]


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_by_hand() -> None:
    scored = [hedged(0.0, -0.8, 1.0), plain(-0.4, 0.6, 0.3), plain(1.0, 0.2, -0.7), Scored(answer=0.0)]
    found = dense_advantages(scored, [TOKENS, TOKENS, ALONE[1:], TOKENS[3:]], group=2, content_weight=0.5)
    # answers: 0, -.4 | 1, 0, of which the variance is .2875 - .15**2; claims: .2, .6, .2, of which it is .32 / 9
    root = (0.29 - 0.15**2 + 0.32 / 9) ** 0.5 + 1e-4
    # said: -.8, .6 (mean -.1) | .2 (its own mean); won: by the hedge; by what was put where one was | nothing
    expected = [[-0.15, -0.15, 1.2, 0.2], [0.15, 0.15, -0.2, -0.2], [0.5, 0.5], [-0.5]]
    assert [[value * root for value in row] for row in found] == [pytest.approx(row) for row in expected]
    put = [[], [2], [1], [0]]
    found = dense_advantages(scored, [TOKENS, TOKENS, ALONE[1:], TOKENS[3:]], group=2, content_weight=0.5, put=put)
    expected = [[-0.15, -0.15, 1.2, 0.2], [0.15, 0.15, 0.1, -0.2], [0.5, -0.2], [-0.5]]
    assert [[value * root for value in row] for row in found] == [pytest.approx(row) for row in expected]


def moved_by(credit: Credit, shift: float) -> Credit:
    """The same choice about a claim that is worth more."""
    said = credit.value if credit.said is None else credit.said
    return replace(credit, value=credit.value + shift, said=said + shift)


@settings(max_examples=25, deadline=None)
@given(batches, st.lists(amounts, min_size=3, max_size=3))
def test_only_differences_within_a_group_count(drawn: Drawn, shifts: list[float]) -> None:
    scored = batch(drawn)
    moved = [
        replace(one, credits=tuple(moved_by(credit, shifts[place // 3]) for credit in one.credits))
        for place, one in enumerate(scored)
    ]
    assert flat(unscaled(moved)) == pytest.approx(flat(unscaled(scored)), abs=1e-9)
    moved = [replace(one, answer=one.answer + shifts[place // 3]) for place, one in enumerate(scored)]
    assert flat(unscaled(moved)) == pytest.approx(flat(unscaled(scored)), abs=1e-9)


def test_what_a_choice_won_is_held_against_nothing() -> None:
    pair = [hedged(0.0, 0.5, 0.25), hedged(0.0, 0.5, 0.25)]
    assert unscaled(pair, group=2) == [pytest.approx([0, 0, 0.25, 0])] * 2
    pair = [plain(0.0, 0.5, -0.25), plain(0.0, 0.5, -0.25)]
    assert unscaled(pair, group=2, put=PUT) == [pytest.approx([0, 0, -0.25, 0])] * 2
    assert unscaled(pair, group=2) == [[0, 0, 0, 0]] * 2, "what follows may be the hedge of the next claim"


def test_the_end_has_the_choice_only_where_it_stands_right_after_the_claim() -> None:
    pair = [plain(0.0, 0.5, 0.25)] * 2
    found = dense_advantages(pair, [ALONE, TOKENS], group=2, put=PUT)
    assert [[value * scale(pair) for value in row] for row in found] == [
        pytest.approx([0, 0, 0.25]),
        pytest.approx([0, 0, 0.25, 0]),
    ]
    cut = dense_advantages(pair, [TOKENS[:2]] * 2, group=2, put=PUT)
    assert flat(cut) == [0] * 4, "answers that were cut off there"


def test_what_was_chosen_is_the_first_token_after_a_claim() -> None:
    assert chosen_tokens(hedged(0.0, 0.5, 0.1), TOKENS) == [2], "the hedge begins there"
    for tokens in (TOKENS, ALONE):
        assert chosen_tokens(plain(0.0, 0.5, 0.1), tokens, {2, 3}) == [2], "put where a hedge was"
        assert chosen_tokens(plain(0.0, 0.5, 0.1), tokens) == [], "it may begin the next claim's hedge"
    in_front = Credit(start=2, end=5, value=0.1, said=0.5, chosen=(0, 2), won=-0.4)
    assert chosen_tokens(Scored(answer=0.0, credits=(in_front,)), ALONE) == [], "the claim was yet to come"
    assert chosen_tokens(Scored(answer=1.0), TOKENS) == []


@settings(max_examples=25, deadline=None)
@given(batches, st.sampled_from([0.0, 0.25, 1.0]))
def test_what_a_choice_won_lands_where_it_was_made(drawn: Drawn, weight: float) -> None:
    scored = batch(drawn)
    bare = without_choices(scored)
    chosen = unscaled(scored, content_weight=weight, put=[range(len(TOKENS))] * len(scored))
    without = unscaled(bare, content_weight=weight)
    for one, row, other in zip(scored, chosen, without, strict=True):
        won = [0.0] * len(TOKENS)
        for credit in one.credits:
            if credit.chosen is not None:
                won[1 if credit.chosen == (2, 5) else 3] += credit.won
        assert [a - b for a, b in zip(row, other, strict=True)] == pytest.approx(won, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(batches)
def test_without_content_the_words_of_a_claim_have_the_advantage_of_their_answer(drawn: Drawn) -> None:
    scored = batch(drawn)
    bare = without_choices(scored)
    assert flat(unscaled(bare, content_weight=0.0)) == pytest.approx(
        flat(unscaled([replace(one, credits=()) for one in scored])), abs=1e-9
    )


def test_it_matters_how_much_content_weighs() -> None:
    scored = [plain(0.0, 1.0), plain(0.0, -1.0)]
    for weight in (1.0, 0.5, 0.0):
        found = unscaled(scored, group=2, content_weight=weight)
        assert found == [pytest.approx([weight, weight, 0, 0]), pytest.approx([-weight, -weight, 0, 0])]


@pytest.mark.parametrize("value", [0.0, 0.3, -1.7])
def test_equal_rewards_have_no_advantage(value: float) -> None:
    found = dense_advantages([plain(value, value)] * 6, [TOKENS] * 6, group=3)
    assert flat(found) == pytest.approx([0.0] * 24, abs=1e-9)


def test_answers_without_tokens_have_no_advantages() -> None:
    assert dense_advantages([Scored(answer=1.0), Scored(answer=0.0)], [[], []], group=2) == [[], []]


SAID = (0.9, -0.1, -0.8)
"""What three claims are worth as facts."""
PRICE = 0.2
"""What each is worth hedged."""
LOGITS = (-1.5, 0.3, -0.4)
"""How readily each is hedged."""


def sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def bandit(claim: int, doubt: int) -> Scored:
    """One claim, plain or hedged, each credited with what it won against the other."""
    worth = PRICE - SAID[claim]
    return hedged(0.0, SAID[claim], worth) if doubt else plain(0.0, SAID[claim], -worth)


def told(scored: Sequence[Scored], doubts: Sequence[int]) -> list[float]:
    """What the token is told that hedges a claim, or that ends the answer where a hedge could have come."""
    tokens = [TOKENS if doubt else ALONE for doubt in doubts]
    return [row[2] * scale(scored) for row in dense_advantages(scored, tokens, group=len(scored))]


def gradient_after(chances: Sequence[float], *, whole: bool = False) -> list[float]:
    """Of the three logits, in expectation over all pairs of answers, per answer.

    With ``whole``, only a hedge is credited, and with all that its claim earned, against the mean of the group.
    """
    outcomes = [
        (claim, doubt, chances[claim] * (sigmoid(LOGITS[claim]) if doubt else 1 - sigmoid(LOGITS[claim])))
        for claim, doubt in product(range(3), range(2))
    ]
    total = [0.0, 0.0, 0.0]
    for pair in product(outcomes, repeat=2):
        scored = [bandit(claim, doubt) for claim, doubt, _ in pair]
        mean = sum(one.credits[0].value for one in scored) / 2
        choices = told(scored, [doubt for _, doubt, _ in pair])
        for (claim, doubt, _), one, choice in zip(pair, scored, choices, strict=True):
            advantage = choice if not whole else (one.credits[0].value - mean if doubt else 0.0)
            total[claim] += pair[0][2] * pair[1][2] * advantage * (doubt - sigmoid(LOGITS[claim])) / 2
    return total


def true_gradient_after(chances: Sequence[float]) -> list[float]:
    """Of the expected reward, by finite differences."""

    def expected(logits: Sequence[float]) -> float:
        hedging = map(sigmoid, logits)
        return sum(p * (s + h * (PRICE - s)) for p, s, h in zip(chances, SAID, hedging, strict=True))

    step = 1e-5
    found: list[float] = []
    for place in range(3):
        up, down = list(LOGITS), list(LOGITS)
        up[place] += step
        down[place] -= step
        found.append((expected(up) - expected(down)) / (2 * step))
    return found


@pytest.mark.parametrize("chances", [(0.2, 0.5, 0.3), (0.9, 0.05, 0.05)])
def test_the_gradient_of_hedging_after_a_claim_is_the_true_one(chances: tuple[float, ...]) -> None:
    true = true_gradient_after(chances)
    assert true[0] < 0 < true[2]
    assert gradient_after(chances) == pytest.approx(true, abs=1e-8)


def test_a_hedge_that_is_credited_with_its_whole_claim_is_told_otherwise() -> None:
    """Where most claims are wrong, a hedge of what is right would be rewarded for the price that it earns."""
    chances = (0.05, 0.15, 0.8)
    assert gradient_after(chances, whole=True)[0] > 0 > true_gradient_after(chances)[0]


@pytest.mark.parametrize("moved", [0.0, 0.3])
def test_a_hedge_in_front_of_a_claim_must_not_change_which_one_it_is(moved: float) -> None:
    """A baseline of the claim is one of the action where the hedge comes first and the claim follows from it."""
    chances = {0: (0.2, 0.5, 0.3), 1: (0.2, 0.5 - moved, 0.3 + moved)}
    worth = {doubt: sum(p * s for p, s in zip(chances[doubt], SAID, strict=True)) for doubt in (0, 1)}
    slope = sigmoid(0.3) * (1 - sigmoid(0.3))
    found = slope * sum(p * told([bandit(claim, 1)] * 2, [1, 1])[0] for claim, p in enumerate(chances[1]))
    assert found - slope * (PRICE - worth[0]) == pytest.approx(slope * (worth[0] - worth[1]), abs=1e-9)
    assert (found == pytest.approx(slope * (PRICE - worth[0]))) == (moved == 0)
