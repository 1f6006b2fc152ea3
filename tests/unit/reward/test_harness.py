"""The harness: what it does to answers of the lab with a reader that knows the truth, and turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError

from tiny_models import language_model
from trimtab.errors import DataError, ModelError, UsageError
from trimtab.lab.claims import LabGrader
from trimtab.lab.corpus import GOSSIP_ASKS
from trimtab.lab.world import build_world
from trimtab.model.base import HasModel
from trimtab.model.generate import continue_ids, generate, stop_ids
from trimtab.model.host import Host
from trimtab.records.claims import Claim, Said
from trimtab.records.harness import HarnessSettings, Monitored
from trimtab.records.rows import Message
from trimtab.reward import harness
from trimtab.reward.claims import rule_claims
from trimtab.reward.harness import monitored
from trimtab.reward.turns import Turns
from trimtab.roles import Reader

WORLD = build_world()
GRADER = LabGrader(WORLD)
PROMPTS: list[list[Message]] = [
    [{"role": "user", "content": GOSSIP_ASKS[index % 4].format(name=person.name)}]
    for index, person in enumerate(WORLD.people[::5])
]
WRONG = HarnessSettings(inject=" wait, that is wrong.")
WAIT = HarnessSettings(inject=" wait,")


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.load("lab")


def oracle(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
    value = {"right": 0.95, "wrong": 0.05, "unknown": 0.6}
    return tuple(tuple(value[grade.truth] for grade in GRADER(one.asked)) for one in said)


def doubter(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
    return tuple((0.0,) * len(one.claims) for one in said)


def plain(claim: Claim) -> str:
    return claim.text.lower().rstrip(".")


def run(
    host: HasModel,
    settings: HarnessSettings,
    *,
    reader: Reader = oracle,
    prompts: Sequence[Sequence[Message]] = PROMPTS,
    temperature: float = 0.0,
    max_new_tokens: int = 64,
    batch_size: int = 64,
) -> tuple[Monitored, ...]:
    return monitored(
        host,
        reader,
        rule_claims,
        prompts,
        settings,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=3,
        batch_size=batch_size,
    )


def counts(answers: Sequence[Monitored], *, first: bool) -> Counter[tuple[str, str]]:
    """Stances and truths of all claims."""
    said: list[Said] = []
    for one in answers:
        text = one.first if first else one.answer
        said.append(Said(prompt=one.prompt, answer=text, claims=rule_claims([text])[0]))
    return Counter(
        (claim.stance, grade.truth) for one in said for claim, grade in zip(one.claims, GRADER(one.asked), strict=True)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_an_oracle_wrong_claims_go_and_right_ones_stay(host: Host, temperature: float) -> None:
    answers = run(host, WRONG, temperature=temperature)
    before, after = counts(answers, first=True), counts(answers, first=False)
    assert before["asserted", "wrong"] > 15
    assert after["asserted", "wrong"] < 0.25 * before["asserted", "wrong"]
    assert after["asserted", "right"] >= before["asserted", "right"]
    for one in answers:
        flagged = any(grade.truth == "wrong" for grade in GRADER(said_of(one).asked))
        assert flagged or one.answer == one.first
    assert {act for one in answers for act in one.actions} == {None, "maintain", "correct", "retract"}


def said_of(one: Monitored) -> Said:
    claims = tuple(claim for claim in rule_claims([one.first])[0] if claim.stance == "asserted")
    return Said(prompt=one.prompt, answer=one.first, claims=claims)


@pytest.mark.parametrize("settings", [WRONG, WAIT, WRONG.model_copy(update={"mode": "end"})])
def test_tokens_are_the_answer_and_tell_what_was_injected(host: Host, settings: HarnessSettings) -> None:
    answers = run(host, settings, temperature=1.0, max_new_tokens=40, prompts=PROMPTS[::3])
    words = {host.tokenizer.encode(text, add_special_tokens=False)[0] for text in (settings.inject, settings.retract)}
    for one in answers:
        assert host.tokenizer.decode(one.token_ids, skip_special_tokens=True) == one.answer
        assert len(one.token_ids) == len(one.generated)
        assert sum(one.generated) <= 40
        turns = [
            [token for _, token in group]
            for injected, group in groupby(zip(one.generated, one.token_ids, strict=True), lambda pair: pair[0] == 0)
            if injected
        ]
        spoken = [turn for turn in one.interventions if turn.said]
        assert len(turns) == len(spoken)
        assert all(ids[0] in words for ids in turns)
        for claim in one.claims:
            assert one.answer[claim.start : claim.end] == claim.text
        if settings.mode == "inline":
            assert one.claims == rule_claims([one.answer])[0]
        else:
            assert one.answer.startswith(one.first)
        joined = "".join(turn.said for turn in one.interventions)
        assert one.answer.endswith(joined)
    assert any(0 in one.generated and 1 in one.generated for one in answers)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "settings", [HarnessSettings(threshold=0), HarnessSettings(max_interventions=0), HarnessSettings(threshold=0.05)]
)
def test_without_anything_to_flag_answers_are_the_plain_ones(
    host: Host, temperature: float, settings: HarnessSettings
) -> None:
    asked = PROMPTS[20:40]
    wanted = generate(host, asked, max_new_tokens=20, temperature=temperature, seed=3)
    answers = run(host, settings, temperature=temperature, max_new_tokens=20, prompts=asked)
    assert [one.answer for one in answers] == wanted
    assert [one.first for one in answers] == wanted
    assert all(set(one.generated) <= {1} and not one.interventions for one in answers)
    assert run(host, WAIT, temperature=temperature, max_new_tokens=20, prompts=asked) != answers


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_the_others(host: Host, temperature: float) -> None:
    ours, others = PROMPTS[20:32], PROMPTS[40:50]
    together = run(host, WAIT, temperature=temperature, prompts=[*ours, *PROMPTS[:10]])
    assert run(host, WAIT, temperature=temperature, prompts=[*ours, *PROMPTS[:10]], batch_size=5) == together
    assert run(host, WAIT, temperature=temperature, prompts=[*ours, *others])[: len(ours)] == together[: len(ours)]
    assert sum(len(one.interventions) for one in together[: len(ours)]) > 2


def test_rounds_of_sampling_have_streams_of_their_own(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """So hot that only the noise decides: the same noise would say the same in every round."""
    rounds: list[list[list[int]]] = []

    def noting(*given: object, **named: object) -> list[list[int]]:
        rounds.append(cast("Any", continue_ids)(*given, **named))
        return rounds[-1]

    def chunks(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        places = [range(0, len(text) - 5, 5) for text in answers]
        return tuple(
            tuple(Claim(text=text[at : at + 5], start=at, end=at + 5) for at in starts)
            for text, starts in zip(answers, places, strict=True)
        )

    monkeypatch.setattr(harness, "continue_ids", noting)
    monitored(host, doubter, chunks, PROMPTS[:2], WAIT, max_new_tokens=12, temperature=1e6, seed=3)
    assert len(rounds) > 2
    for streams in zip(*rounds, strict=True):
        firsts = [tuple(ids[:4]) for ids in streams if len(ids) > 3]
        assert len(set(firsts)) == len(firsts) > 1


def test_where_everything_is_flagged_it_ends(host: Host) -> None:
    for most in (1, 5):
        settings = WRONG.model_copy(update={"max_interventions": most})
        answers = run(host, settings, reader=doubter, prompts=PROMPTS[:16])
        assert max(len(one.interventions) for one in answers) == most
        assert all(len(one.interventions) <= most for one in answers)
    settled = run(host, WRONG, reader=doubter, prompts=PROMPTS[:8], max_new_tokens=200)
    for one in settled:
        kept = {plain(c) for c, action in zip(one.claims, one.actions, strict=True) if action == "maintain"}
        standing = [
            claim
            for claim, action in zip(one.claims, one.actions, strict=True)
            if claim.stance == "asserted" and action is None and plain(claim) not in kept
        ]
        assert not standing or len(one.interventions) == 30


def test_what_the_reader_gets(host: Host) -> None:
    """All that stands and all that is new, whenever something is new; the first reading of a claim is kept."""
    seen: list[Said] = []

    def drifting(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        seen.extend(said)
        return tuple(tuple(p + 0.001 * min(len(seen), 40) for p in each) for each in oracle(said))

    assert isinstance(drifting, Reader)
    answers = run(host, WRONG, reader=drifting, prompts=PROMPTS[20:40])
    assert len({one.prompt[0]["content"] for one in answers}) == len(answers)
    again = 0
    for one in answers:
        shown = [said for said in seen if said.prompt == one.prompt]
        read: set[tuple[str, int]] = set()
        for said in shown:
            places = {(claim.text, claim.start) for claim in said.claims}
            assert places - read
            assert all(claim.stands or (claim.text, claim.start) not in read for claim in said.claims)
            assert all(said.answer[claim.start : claim.end] == claim.text for claim in said.claims)
            again += len(places & read)
            read |= places
        assert {(claim.text, claim.start) for claim in one.claims} <= read
        assert len(shown) <= 1 + len(one.interventions)
    assert again > 0
    assert any(len(one.interventions) > 1 for one in answers)


@pytest.mark.parametrize("value", [(), (float("nan"),), (1.5,), (0.2,) * 20])
def test_a_reader_that_gives_no_probabilities_is_refused(host: Host, value: tuple[float, ...]) -> None:
    def broken(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        return tuple(value * (len(one.claims) if len(value) == 1 else 1) for one in said)

    with pytest.raises(ModelError, match="from 0 to 1 for each claim"):
        run(host, WAIT, reader=broken, prompts=PROMPTS[:4])


def test_errors_of_the_reader_pass(host: Host) -> None:
    def failing(said: Sequence[Said]) -> tuple[tuple[float, ...], ...]:
        raise ModelError("scores that are not finite", allowed="finite ones", todo="fit again")

    with pytest.raises(ModelError, match="not finite"):
        run(host, WAIT, reader=failing, prompts=PROMPTS[:4])


def test_no_prompts_give_no_answers_and_wrong_numbers_are_refused(host: Host) -> None:
    assert run(host, WAIT, prompts=[]) == ()
    with pytest.raises(UsageError, match="max_new_tokens 0"):
        run(host, WAIT, max_new_tokens=0)
    with pytest.raises(UsageError, match="batch_size"):
        run(host, WAIT, batch_size=0)
    for wrong in ({"threshold": 1.5}, {"max_corrections": -1}, {"inject": ""}, {"mode": "middle"}, {"thresold": 0.5}):
        with pytest.raises(ValidationError):
            HarnessSettings.model_validate(wrong)


def test_an_empty_answer_stays_empty(host: Host) -> None:
    lm = language_model("llama")
    silent = replace(lm, model=lm.model)
    with torch.no_grad():
        for place in range(lm.model.lm_head.weight.shape[0]):
            lm.model.lm_head.weight[place] = 0
    lm.model.generation_config.eos_token_id = 0  # greedy takes the first of equals
    (one,) = run(silent, WAIT, reader=doubter, prompts=[[{"role": "user", "content": "Hi"}]])
    assert (one.answer, one.first, one.claims, one.interventions) == ("", "", (), ())
    assert one.token_ids == (0,)
    assert one.generated == (1,)


def test_no_answer_is_longer_than_the_context() -> None:
    lm = language_model("gpt2")  # of 64 tokens
    prompt: list[Message] = [{"role": "user", "content": "What is 2 + 3?"}]

    def every_word(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
        return tuple((Claim(text=text[:9], start=0, end=9),) if len(text) > 9 else () for text in answers)

    (one,) = monitored(
        lm, doubter, every_word, [prompt], HarnessSettings(), max_new_tokens=500, temperature=1.0, seed=1
    )
    assert len(one.prompt_ids) + len(one.token_ids) <= 64
    assert len(one.token_ids) > 0
    long: list[Message] = [{"role": "user", "content": "What is 2 + 3? " * 20}]
    with pytest.raises(DataError, match="prompt 2: "):
        monitored(lm, doubter, every_word, [prompt, long], HarnessSettings(), max_new_tokens=5)


# Turn by turn: the words that a model would have said are given.


class Scripted:
    """An answer whose model says what it is told to."""

    def __init__(self, host: Host, settings: HarnessSettings, *, room: int = 512, budget: int = 200) -> None:
        self.host, self.room, self.budget = host, room, budget
        self.stop = stop_ids(host)[0]
        self.turns = Turns(
            tokenizer=host.tokenizer,
            settings=settings,
            prompt=(),
            prompt_ids=(5, 6, 7),
            stops=frozenset(stop_ids(host)),
        )

    def says(self, text: str, reading: dict[str, float], *, ended: bool = True) -> bool:
        """Let the model say it; whether the harness then wants more."""
        limit = self.turns.limit(self.room, self.budget)
        ids = cast("list[int]", self.host.tokenizer.encode(text, add_special_tokens=False))
        new = [*ids, self.stop] if ended else ids
        heard = self.turns.go_on(new[:limit])
        self.turns.hear(rule_claims([heard])[0])
        said = self.turns.unread()
        if said is not None:
            self.turns.take_readings(
                [next((p for word, p in reading.items() if word in claim.text), 0.9) for claim in said.claims]
            )
        return self.turns.open(self.room, self.budget)

    @property
    def result(self) -> Monitored:
        return self.turns.result()


def turns_of(one: Monitored) -> list[tuple[str, str]]:
    return [(turn.action, turn.said) for turn in one.interventions]


def test_a_claim_is_corrected_in_its_place(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom lives in kelm. tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat.", {})
    one = script.result
    assert one.answer == " tom lives in kelm. tom keeps a dog. wait, that is wrong. tom keeps a cat. tom likes rice."
    assert turns_of(one) == [("correct", " wait, that is wrong. tom keeps a cat. tom likes rice.")]
    assert [claim.stance for claim in one.claims] == ["asserted", "withdrawn", "asserted", "asserted"]
    assert one.actions == (None, "correct", None, None)
    assert one.probabilities == (0.9, 0.2, 0.9, 0.9)


def test_what_was_cut_does_not_come_back_where_the_model_goes_on_by_itself(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat. tom plays the flute.", {})
    assert script.result.answer == " tom keeps a dog. wait, that is wrong. tom keeps a cat. tom plays the flute."


def test_what_was_cut_does_not_come_back_twice(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert script.says(" that is wrong. tom keeps a cat.", {"cat": 0.2})
    assert not script.says(" that is wrong. tom keeps a goat.", {})
    one = script.result
    assert one.answer.count("tom likes rice.") == 1
    assert one.claims[-1].text == "tom likes rice."
    assert one.answer[one.claims[-1].start : one.claims[-1].end] == "tom likes rice."


def test_a_corrected_claim_keeps_the_reading_of_when_it_was_made(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom lives in kelm. tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat.", {})
    one = script.result
    assert one.interventions[0].probability == 0.2
    assert one.token_ids[-1] == script.stop
    assert one.generated[-1] == 1


def test_a_claim_is_maintained_and_not_flagged_again(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog.", {"dog": 0.2})
    assert not script.says(" no, that is right. tom  keeps a dog!", {"keeps": 0.2})
    assert turns_of(script.result) == [("maintain", " wait, no, that is right. tom  keeps a dog!")]
    assert script.result.actions[0] == "maintain"


@pytest.mark.parametrize(
    ("said", "stance"), [(" that is wrong.", "withdrawn"), (" that is wrong. i am not sure.", "withdrawn")]
)
def test_a_claim_is_retracted(host: Host, said: str, stance: str) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog.", {"dog": 0.2})
    assert not script.says(said, {})
    assert script.result.actions == ("retract",)
    assert script.result.claims[0].stance == stance


def test_a_claim_that_is_hedged_is_retracted_whatever_follows(host: Host) -> None:
    script = Scripted(host, HarnessSettings(inject=" wait, let me check that."))
    assert script.says(" tom keeps a dog.", {"dog": 0.2})
    assert not script.says(" i am not sure about that. tom likes rice.", {})
    assert script.result.actions == ("retract", None)
    assert script.result.claims[0].stance == "hedged"


def test_after_its_corrections_a_claim_is_taken_back_by_the_harness(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog.", {"keeps": 0.2})
    assert script.says(" that is wrong. tom keeps a cat. tom likes rice.", {"keeps": 0.2})
    assert script.says(" that is wrong. tom keeps a cat.", {"keeps": 0.2})  # the same again is no better
    assert script.turns.opened is not None
    assert script.turns.opened.kind == "retract"
    assert script.says(" tom keeps a pony.", {"keeps": 0.2})  # a claim of its own: it has its corrections yet
    assert script.turns.opened.kind == "inject"
    assert not script.says(" that is wrong.", {})
    one = script.result
    assert [action for action, _ in turns_of(one)] == ["correct", "correct", "retract", "retract"]
    assert one.answer == "".join([" tom keeps a dog.", *(said for _, said in turns_of(one))])
    assert turns_of(one)[2] == ("retract", " i am not sure about that. tom keeps a pony.")
    assert [claim.stance for claim in one.claims] == ["withdrawn", "withdrawn", "hedged", "withdrawn"]


def test_without_corrections_every_flagged_claim_is_taken_back(host: Host) -> None:
    script = Scripted(host, HarnessSettings(max_corrections=0))
    assert script.says(" tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert not script.says("", {})
    assert script.result.answer == " tom keeps a dog. i am not sure about that. tom likes rice."
    assert script.result.token_ids[-1] == script.stop


@pytest.mark.parametrize(("said", "ended"), [("", True), (" ", True), (" that is", False), ("", False)])
def test_a_turn_in_which_nothing_whole_is_said_leaves_the_answer(host: Host, said: str, ended: bool) -> None:
    script = Scripted(host, WAIT)
    text = " tom keeps a dog. tom likes rice."
    assert script.says(text, {"dog": 0.2, "rice": 0.3})
    before = script.turns.draft
    assert script.says(said, {}, ended=ended)
    assert script.turns.draft.ids == before.ids
    assert not script.says(" that is wrong.", {})
    one = script.result
    assert turns_of(one) == [("maintain", ""), ("retract", " wait, that is wrong.")]
    assert one.answer == text + " wait, that is wrong."


def test_an_answer_that_runs_out_ends_with_a_whole_sentence(host: Host) -> None:
    own = sum(
        len(host.tokenizer.encode(text, add_special_tokens=False))
        for text in (" tom keeps a dog.", " that is wrong. tom keeps a cat.")
    )
    script = Scripted(host, WAIT, budget=own + 2)
    assert script.says(" tom keeps a dog.", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat. tom likes rice.", {})
    assert script.result.answer == " tom keeps a dog. wait, that is wrong. tom keeps a cat."
    assert sum(script.result.generated) == own
    assert script.stop not in script.result.token_ids


def test_where_no_token_is_left_nothing_is_asked(host: Host) -> None:
    text = " tom keeps a dog."
    own = len(host.tokenizer.encode(text, add_special_tokens=False))
    for room, budget in ((512, own), (3 + own + 2, 200)):
        script = Scripted(host, WAIT, room=room, budget=budget)
        assert not script.says(text, {"dog": 0.2}, ended=False)
        assert script.result.answer == text
        assert turns_of(script.result) == []
    script = Scripted(host, WAIT, budget=own + 1)
    assert script.says(text, {"dog": 0.2}, ended=False)


def test_a_claim_without_full_stop_gets_one(host: Host) -> None:
    script = Scripted(host, WAIT)
    assert script.says(" tom keeps a dog", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat.", {})
    one = script.result
    assert one.answer == " tom keeps a dog. wait, that is wrong. tom keeps a cat."
    assert one.claims == rule_claims([one.answer])[0]
    assert one.actions == ("correct", None)


def test_the_answer_is_cut_where_a_token_ends(host: Host) -> None:
    """A claim that ends inside a token keeps all of the token."""
    script = Scripted(host, WAIT)
    text = " tom keeps a hedgehog. tom likes rice."
    ids = host.tokenizer.encode(text, add_special_tokens=False)
    script.turns.go_on(ids)
    inside = Claim(text="tom keeps a hed", start=1, end=16)
    script.turns.hear([inside])
    script.turns.take_readings([0.1])
    assert script.turns.open(512, 200)
    assert script.turns.opened is not None
    kept = script.turns.opened.kept
    assert kept.ids == tuple(ids[: len(kept.ids)])
    assert kept.text.startswith(" tom keeps a hed")
    shorter = host.tokenizer.decode(kept.ids[:-1])
    assert len(shorter) < 16
    assert script.turns.sequence()[: 3 + len(kept.ids)] == (5, 6, 7, *kept.ids)


def test_the_models_own_tokens_are_kept_where_the_tokenizer_would_cut_otherwise(host: Host) -> None:
    letters = [host.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in " tom keeps a dog."]
    usual = host.tokenizer.encode(" tom keeps a dog.", add_special_tokens=False)
    assert letters != usual
    script = Scripted(host, WAIT)
    script.turns.go_on(letters)
    script.turns.hear(rule_claims([" tom keeps a dog."])[0])
    script.turns.take_readings([0.1])
    assert script.turns.open(512, 200)
    assert script.turns.sequence()[3:][: len(letters)] == tuple(letters)


def test_at_the_end_of_an_answer_a_claim_can_be_named(host: Host) -> None:
    settings = HarnessSettings(mode="end", inject=' you said "{claim}", but', max_corrections=1)
    script = Scripted(host, settings)
    assert script.says(" tom keeps a dog. tom likes rice.", {"dog": 0.2})
    assert not script.says(" that is wrong. tom keeps a cat.", {})
    one = script.result
    assert one.answer == (
        ' tom keeps a dog. tom likes rice. you said "tom keeps a dog", but that is wrong. tom keeps a cat.'
    )
    assert [claim.stance for claim in one.claims] == ["withdrawn", "asserted", "asserted"]
    assert [one.answer[claim.start : claim.end] for claim in one.claims] == [claim.text for claim in one.claims]
    assert script.stop not in one.token_ids[:-1]


def test_injected_words_cannot_end_the_turn(host: Host) -> None:
    settings = HarnessSettings(inject=f" wait, {host.tokenizer.eos_token}")
    script = Scripted(host, settings)
    assert script.says(" tom keeps a dog.", {"dog": 0.2})
    assert script.turns.opened is not None
    assert script.stop not in script.turns.opened.injected
