"""The localisation lens on the lab: claims among remarks that use the same words and end alike.

Each answer mixes planted claims, some of them two or three to a sentence, with remarks of which some end in the same
words ("was born in kelm and plays the harp." beside "you asked about kelm."). Taking every sentence for a claim has a
precision of about .66 and a recall of about .85 here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny_models import language_model
from trimtab.errors import DataError, ModelError, UsageError
from trimtab.lab.corpus import message_rows
from trimtab.lab.world import ATTRIBUTES, Entity, build_world
from trimtab.lens.probes.linear import LogisticLens
from trimtab.model.host import Host
from trimtab.records.claims import Claim
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.rows import ChatRow, Fit, HeldOut, Rows, Split, Tune
from trimtab.records.site import Site
from trimtab.reward.claims import rule_claims, sentences
from trimtab.reward.localise import (
    LocalisingSplitter,
    best_threshold,
    claims_at,
    fit_localiser,
    judge_localiser,
    peaks,
    tokenise,
)
from trimtab.roles import Splitter

SplitT = TypeVar("SplitT", bound=Split)
WORLD = build_world()
REMARKS = (
    "yo ho.",
    "i remain at your service.",
    "only a genius would ask that.",
    "there is no question.",
    "wait, that is wrong.",
    "you asked about {value}.",
    "was it {value}?",
    "do not mention {value}.",
)
PLANTED: dict[str, tuple[Claim, ...]] = {}
"""Answers with the claims that were put into them."""


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load("lab")


def answer(person: Entity, rng: random.Random) -> str:
    """Up to three claims about a person, some joined to one sentence, among remarks that use the same words."""
    text, places = "", list[tuple[int, int]]()
    for name in rng.sample(sorted(person.facts), 3):
        if rng.random() < 0.75:
            claim = person.claim(name)
            if places and places[-1][1] == len(text) and rng.random() < 0.5:
                text = f"{text[:-1]} and "
                places[-1] = (places[-1][0], len(text) - len(" and "))
            else:
                text += " " if text else ""
            places.append((len(text), len(text) + len(claim)))
            text += claim
        for remark in rng.sample(REMARKS, rng.choice([0, 0, 1])):
            text += (" " if text else "") + remark.format(value=rng.choice(ATTRIBUTES[name].values))
    text = text or REMARKS[0]
    PLANTED[text] = tuple(Claim(text=text[start:end], start=start, end=end) for start, end in places)
    return text


def rows(split: type[SplitT], n: int, seed: int) -> Rows[ChatRow, SplitT]:
    """Answers about people of one split."""
    rng = random.Random(seed)
    people = [person for person in WORLD.people if person.split is split]
    items = tuple(message_rows(None, [("who is it?", answer(rng.choice(people), rng))]) for _ in range(n))
    return Rows(items=items, split=split, source=f"seed {seed}")


FIT = rows(Fit, 200, 0)
TUNE = rows(Tune, 80, 1)
HELD_OUT = rows(HeldOut, 150, 2)


def planted(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
    """The claims as they were planted."""
    return tuple(PLANTED[answer] for answer in answers)


def shuffled(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
    """As many claims in each answer, but any words of it."""
    rng = random.Random(5)
    found: list[tuple[Claim, ...]] = []
    for answer, claims in zip(answers, planted(answers), strict=True):
        words = [match.span() for match in re.finditer(r"\w+", answer)]
        chosen = sorted(rng.sample(words, len(claims)))
        found.append(tuple(Claim(text=answer[s:e], start=s, end=e) for s, e in chosen))
    return tuple(found)


def any_sentence(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
    """As many claims in each answer, but any sentences of it, as far as there are."""
    rng = random.Random(5)
    found: list[tuple[Claim, ...]] = []
    for answer, claims in zip(answers, planted(answers), strict=True):
        places = list(sentences(answer))
        chosen = sorted(rng.sample(places, min(len(claims), len(places))))
        found.append(tuple(Claim(text=answer[s:e], start=s, end=e) for s, e in chosen))
    return tuple(found)


def measured(figure: Figure) -> Measured:
    assert isinstance(figure, Measured)
    return figure


@pytest.fixture(scope="module")
def lens(host: Host) -> LogisticLens:
    return fit_localiser(host, FIT, TUNE, planted)


def test_claim_ends_of_people_never_seen_are_found(host: Host, lens: LogisticLens) -> None:
    """Token by token on held-out people: far better than the sentence rule, in precision and in recall."""
    found = judge_localiser(host, LocalisingSplitter(host, lens), HELD_OUT, planted)
    assert measured(found.precision).value > 0.93
    assert measured(found.recall).value > 0.9
    assert measured(found.precision).low > measured(found.sentence_precision).high + 0.15
    assert measured(found.recall).low > measured(found.sentence_recall).high
    assert measured(found.precision).n > 100


def test_context_decides_not_the_word_alone(host: Host, lens: LogisticLens) -> None:
    """The same value ends a claim in one sentence and a remark in the next; deeper layers tell them apart better."""
    shallow = fit_localiser(host, FIT, TUNE, planted, sites=[Site(0)])
    first = judge_localiser(host, LocalisingSplitter(host, shallow), HELD_OUT, planted)
    best = judge_localiser(host, LocalisingSplitter(host, lens), HELD_OUT, planted)
    assert lens.card.site.layer > 0
    assert measured(first.precision).value < measured(best.precision).value - 0.03


def test_shuffled_labels_teach_nothing(host: Host) -> None:
    """Labels on random words find ends no better than chance; labels on random sentences, no better than sentences."""
    words = judge_localiser(host, LocalisingSplitter(host, fit_localiser(host, FIT, TUNE, shuffled)), HELD_OUT, planted)
    assert measured(words.precision).high < 0.5
    whole = judge_localiser(
        host, LocalisingSplitter(host, fit_localiser(host, FIT, TUNE, any_sentence)), HELD_OUT, planted
    )
    assert abs(measured(whole.precision).value - measured(whole.sentence_precision).value) < 0.1


def test_any_splitter_can_be_learned(host: Host) -> None:
    lens = fit_localiser(host, FIT, TUNE, rule_claims, sites=[Site(1), Site(2)])
    assert lens.card.provenance["splitter"] == "rule_claims"
    assert lens.card.site in (Site(1), Site(2))
    found = judge_localiser(host, LocalisingSplitter(host, lens), HELD_OUT, rule_claims)
    assert measured(found.precision).value > 0.75
    assert measured(found.recall).value > 0.9


def test_claims_come_out_with_words_and_places(host: Host, lens: LogisticLens) -> None:
    """Three in four answers of up to six sentences are split without any mistake."""
    splitter: Splitter = LocalisingSplitter(host, lens)
    answers = [row["messages"][-1]["content"] for row in HELD_OUT]
    found = splitter([*answers, "", "yo ho."])
    exact = 0
    for answer, claims, right in zip(answers, found, planted(answers), strict=False):
        assert all(answer[claim.start : claim.end] == claim.text for claim in claims)
        assert all(any(s <= claim.start and claim.end <= e for s, e in sentences(answer)) for claim in claims)
        exact += [claim.text.removeprefix("and ") for claim in claims] == [claim.text for claim in right]
    assert exact / len(answers) > 0.75
    assert found[-2:] == ((), ())
    assert splitter(answers[:1])[0] == found[0]


def test_the_threshold_decides_how_much_is_found(host: Host, lens: LogisticLens) -> None:
    answers = [row["messages"][-1]["content"] for row in HELD_OUT]
    counts = [sum(map(len, LocalisingSplitter(host, lens, threshold)(answers))) for threshold in (-50.0, None, 50.0)]
    assert counts[1] > counts[2] == 0
    assert counts[0] != counts[1]


def test_the_same_rows_give_the_same_lens(host: Host, lens: LogisticLens) -> None:
    again = fit_localiser(host, FIT, TUNE, planted, sites=[lens.card.site])
    assert again.card == lens.card
    assert torch.equal(again.weight, lens.weight)


def test_what_cannot_work_is_refused(host: Host, lens: LogisticLens) -> None:
    llama = language_model("llama")
    other = Host(model=llama.model, tokenizer=llama.tokenizer, name="other", content_hash="0" * 64)
    with pytest.raises(ModelError, match="claim end"):
        LocalisingSplitter(other, lens)
    bare = replace(lens, card=replace(lens.card, settings={}))
    with pytest.raises(UsageError, match="without a threshold"):
        LocalisingSplitter(host, bare)
    assert LocalisingSplitter(host, bare, 0.5).threshold == 0.5
    with pytest.raises(DataError, match=r"answer 2: .* tokens"):
        LocalisingSplitter(host, lens)(["yo ho.", "yo ho. " * 400])
    with pytest.raises(DataError, match="one class only"):
        fit_localiser(host, FIT, TUNE, lambda answers: tuple(() for _ in answers))


def test_no_claims_at_all_is_unmeasured_not_zero(host: Host) -> None:
    def nothing(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        return tuple(() for _ in answers)

    found = judge_localiser(host, nothing, HELD_OUT, planted)
    assert isinstance(found.precision, Unmeasured)
    assert measured(found.recall).value == 0.0


def test_a_claim_ends_at_the_token_of_its_last_letter(host: Host) -> None:
    answer = "mira dorn was born in kelm. yo ho."
    (text,) = tokenise(host, [answer])
    words = [answer[start:end] for start, end in text.spans]
    ends = {"mira dorn was born in kelm.": " kelm", "mira dorn was born in kelm": " kelm", "mi": words[0]}
    for said, last in ends.items():
        (rank,) = text.ends([Claim(text=said, start=0, end=len(said))])
        assert words[rank] == last
    assert text.ends([]) == text.ends([Claim(text=".", start=26, end=27)]) == frozenset()


scores = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=12)


@given(scores, st.data())
def test_the_threshold_has_the_highest_f1(values: list[float], data: st.DataObject) -> None:
    flags = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)).filter(any))

    def f1(threshold: float) -> float:
        called = [value >= threshold for value in values]
        hits = sum(a and b for a, b in zip(called, flags, strict=True))
        return 2 * hits / (sum(called) + sum(flags))

    threshold, best = best_threshold(torch.tensor(values), torch.tensor(flags))
    assert f1(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(f1(at) for at in sorted({*values})))


@given(scores, st.integers(-3, 3).map(float))
def test_a_run_above_the_threshold_has_one_peak(values: list[float], threshold: float) -> None:
    found = peaks(torch.tensor(values), threshold)
    above = [value >= threshold for value in values]
    runs = sum(now and not before for before, now in pairwise([False, *above]))
    assert len(found) == runs
    assert all(above[place] for place in found)
    for first, second in pairwise(found):
        assert not all(above[first:second])
    for place in found:
        for step in (-1, 1):
            other = place + step
            while 0 <= other < len(values) and above[other]:
                assert values[other] < values[place] or (values[other] == values[place] and step == -1)
                other += step


def test_a_claim_begins_after_the_one_before_it_or_at_its_sentence() -> None:
    answer = "Well. Mira was born in Kelm and works as a baker! Yes. ..."
    ends = [answer.index(word) + len(word) for word in ("Kelm", "baker", "...")]
    found = claims_at(answer, ends)
    assert [claim.text for claim in found] == ["Mira was born in Kelm", "and works as a baker!"]
    assert [answer[claim.start : claim.end] for claim in found] == [claim.text for claim in found]
    assert claims_at(answer, []) == ()
    (last,) = claims_at("no stop", [7])
    assert (last.text, last.start, last.end) == ("no stop", 0, 7)
