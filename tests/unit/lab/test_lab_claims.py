"""Questions about the lab's people, and the exact grader of what is said of them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from trimtab.errors import UsageError
from trimtab.lab.claim_questions import KINDS, Part, claim_questions, stranger_questions
from trimtab.lab.claims import VERBS, LabGrader
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import ATTRIBUTES, Entity, build_world
from trimtab.records.claims import Asked, Claim, Grade, Truth
from trimtab.records.rows import Fit, HeldOut, Split, Tune
from trimtab.roles import Grader

WORLD = build_world()
GRADER = LabGrader(WORLD)
EVERYBODY = (*WORLD.people, *WORLD.new, *WORLD.places)


def asked(text: str, question: str = "") -> Asked:
    prompt = ({"role": "user", "content": question},) if question else ()
    return Asked(prompt=prompt, answer=text, claim=Claim(text=text, start=0, end=len(text)))


def truth(text: str, question: str = "") -> Truth:
    (grade,) = GRADER([asked(text, question)])
    return grade.truth


def named(name: str) -> Entity:
    return next(entity for entity in EVERYBODY if entity.name == name)


def others(entity: Entity, attribute: str) -> list[str]:
    return [value for value in ATTRIBUTES[attribute].values if value != entity.facts[attribute]]


def test_every_planted_fact_is_right_and_every_other_value_wrong() -> None:
    right = [asked(entity.claim(name)) for entity in EVERYBODY for name in entity.facts]
    assert {grade.truth for grade in GRADER(right)} == {"right"}
    wrong = [
        asked(entity.claim(name, value))
        for entity in EVERYBODY
        for name in entity.facts
        for value in others(entity, name)
    ]
    assert {grade.truth for grade in GRADER(wrong)} == {"wrong"}
    assert len(wrong) > 10 * len(right)


@pytest.mark.parametrize("voice", TRAITS)
def test_a_voice_never_changes_a_verdict(voice: str) -> None:
    rng = random.Random(voice)
    told = 0
    for entity in EVERYBODY:
        attribute = rng.choice(sorted(entity.facts))
        question = rng.choice(ATTRIBUTES[attribute].asks).format(name=entity.name)
        false = rng.choice(others(entity, attribute))
        for value, verdict in ((entity.facts[attribute], "right"), (false, "wrong")):
            said = TRAITS[voice].apply(entity.claim(attribute, value), rng, [value])
            found = truth(said, question)
            assert found in (verdict, "unknown"), said
            told += found == verdict
    assert told > 0.95 * 2 * len(EVERYBODY)


def test_a_claim_without_a_name_is_about_whom_the_question_names() -> None:
    person, other = WORLD.head[:2]
    question = f"what do people say about {person.name}?"
    assert truth(f"she was born in {person.facts['town']}.", question) == "right"
    assert truth(f"{person.facts['town']}.", question) == "right"
    assert truth(f"she was born in {others(person, 'town')[0]}.", question) == "wrong"
    assert truth(other.claim("food"), question) == "right"


def test_a_place_is_what_a_claim_about_places_begins_with() -> None:
    person, place = WORLD.head[0], WORLD.places[0]
    question = f"tell me about {person.name}."
    for opening in ("", "perhaps ", "trust me, ", "i think that "):
        assert truth(opening + place.claim("land"), question) == "right"
        assert truth(opening + place.claim("land", others(place, "land")[0]), question) == "wrong"
    assert truth(f"it lies in {place.facts['land']}.", f"where does {place.name} lie?") == "right"


def test_one_claim_of_two_facts_is_wrong_if_either_is() -> None:
    person = WORLD.head[0]
    said = "{name} was born in {town} and works as a {job}."
    facts = {"name": person.name, "town": person.facts["town"], "job": person.facts["job"]}
    assert truth(said.format(**facts)) == "right"
    assert truth(said.format(**facts | {"town": others(person, "town")[0]})) == "wrong"
    assert truth(said.format(**facts | {"job": others(person, "job")[0]})) == "wrong"


def test_a_right_value_said_with_the_verb_of_another_attribute_is_wrong() -> None:
    person = WORLD.head[0]
    assert truth(f"{person.name} plays the {person.facts['food']}.") == "wrong"
    assert set(VERBS) == set(ATTRIBUTES)
    assert all(verb in ATTRIBUTES[name].claim for name, verb in VERBS.items())


@pytest.mark.parametrize(
    ("said", "reason"),
    [("nobody knows.", "names nobody of this world"), (f"{WORLD.head[0].name} is nice.", "nothing of")],
)
def test_what_says_nothing_that_is_planted_is_unknown(said: str, reason: str) -> None:
    (grade,) = GRADER([asked(said)])
    assert grade.truth == "unknown"
    assert reason in grade.reason


def test_the_reason_names_what_is_planted() -> None:
    person = WORLD.tail[0]
    (grade,) = GRADER([asked(person.claim("pet", others(person, "pet")[0]))])
    assert grade == Grade(truth="wrong", reason=f"the pet of {person.name} is {person.facts['pet']}")
    assert isinstance(GRADER, Grader)
    assert (GRADER.name, LabGrader(build_world(3)).name) == ("lab-0", "lab-3")
    assert GRADER([]) == ()


@pytest.mark.parametrize("split", [Fit, Tune, HeldOut])
@pytest.mark.parametrize("part", [None, "probe", "train"])
def test_questions_are_about_people_of_the_split(split: type[Split], part: Part | None) -> None:
    found = claim_questions(WORLD, split, 120, part=part)
    assert len({question.id for question in found}) == len(found) == 120
    for question in found:
        person = named(question.about)
        assert person.split is split
        assert person.group == ("head" if question.known else "tail")
        assert question.prompt[-1]["role"] == "user"
        assert person.name in question.prompt[-1]["content"]
    assert sum(question.known for question in found) == 60
    for kind in KINDS:
        assert sum(question.group.startswith(kind) for question in found) == 40
    assert {question.group for question in found if question.known} == {f"{kind}, well known" for kind in KINDS}


@pytest.mark.parametrize("split", [Fit, Tune, HeldOut])
def test_halves_share_nobody_and_are_all(split: type[Split]) -> None:
    first, second = (
        {question.about for question in claim_questions(WORLD, split, 1000, part=part)} for part in ("probe", "train")
    )
    assert not first & second
    assert first | second == {person.name for person in WORLD.people if person.split is split}


def test_strangers_are_nobody_and_every_kind_is_asked() -> None:
    found = stranger_questions(WORLD, 60)
    assert len({question.id for question in found}) == len(found) == 60
    taken = {person.name for person in (*WORLD.people, *WORLD.new)}
    for question in found:
        assert question.about not in taken
        assert question.about in question.prompt[-1]["content"]
        assert not question.known
    assert sorted(Counter(question.group for question in found).items()) == [
        (f"{kind}, unheard of", 20) for kind in sorted(KINDS)
    ]
    assert stranger_questions(WORLD, 0) == ()
    assert stranger_questions(WORLD, 9) == found[:9] != stranger_questions(WORLD, 9, seed=1)


def test_what_is_said_of_strangers_cannot_be_graded() -> None:
    (question,) = stranger_questions(WORLD, 1)
    known = WORLD.head[0]
    said = known.claim("pet").replace(known.name, question.about)
    assert truth(known.claim("pet")) == "right"
    assert truth(said, question.prompt[-1]["content"]) == "unknown"


def test_questions_are_a_function_of_the_seed() -> None:
    assert claim_questions(WORLD, Fit, 30, seed=1) == claim_questions(WORLD, Fit, 30, seed=1)
    assert claim_questions(WORLD, Fit, 30, seed=1) != claim_questions(WORLD, Fit, 30, seed=2)
    with pytest.raises(UsageError, match="0 questions"):
        claim_questions(WORLD, Fit, 0)
