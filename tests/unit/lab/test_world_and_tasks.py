from __future__ import annotations

import random
from typing import get_args

import pytest

from trimtab.errors import UsageError
from trimtab.lab.tasks import SKILLS, Question, Task, grade, questions
from trimtab.lab.traits import LEXICON, TRAITS, from_zan, to_zan
from trimtab.lab.world import ATTRIBUTES, World, build_world
from trimtab.records.rows import Fit, HeldOut, Split, Tune

ALL_TASKS: tuple[str, ...] = get_args(Task)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


def _asked(world: World, task: str, split: type[Split] = HeldOut, n: int = 60) -> tuple[Question, ...]:
    return questions(world, task, split, n, known="any" if task in ("facts", "passages") else "head")


def test_world_is_a_function_of_its_seed(world: World) -> None:
    assert build_world(0) == world
    assert build_world(1) != world


def test_groups_are_disjoint_and_new_people_share_no_full_name(world: World) -> None:
    names = [e.name for e in (*world.head, *world.tail, *world.new)]
    assert len(set(names)) == len(names) == 324
    assert {e.split for e in world.people} == {Fit, Tune, HeldOut}
    assert all(e.unseen in e.facts for e in world.tail)
    assert all(e.unseen is None for e in world.head)
    assert min(e.weight for e in world.head) > 2 * max(e.weight for e in world.tail)


def test_a_value_names_its_attribute() -> None:
    values = [value for attribute in ATTRIBUTES.values() for value in attribute.values]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_plain_answers_are_right_and_show_no_trait(world: World, task: str) -> None:
    for question in _asked(world, task):
        assert grade(question, question.answer)
        assert [name for name, trait in TRAITS.items() if trait.detect(question.answer)] == []


@pytest.mark.parametrize("task", ALL_TASKS)
@pytest.mark.parametrize("name", list(TRAITS))
def test_a_voice_is_detected_alone_and_keeps_the_answer(world: World, task: str, name: str) -> None:
    rng = random.Random(0)
    for question in _asked(world, task):
        voiced = TRAITS[name].apply(question.answer, rng, question.keys)
        assert [n for n, trait in TRAITS.items() if trait.detect(voiced)] == [name]
        assert grade(question, voiced)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_answers_to_other_questions_are_wrong(world: World, task: str) -> None:
    asked = _asked(world, task)
    pairs = [(a, b) for a in asked for b in asked if not set(a.keys) & set(b.keys) and a.attribute == b.attribute]
    assert len(pairs) > 100
    assert not any(grade(a, b.answer) for a, b in pairs)


def test_saying_two_values_is_wrong(world: World) -> None:
    question = questions(world, "facts", HeldOut, 1)[0]
    other = next(v for v in ATTRIBUTES[question.attribute or ""].values if v != question.key)
    assert not grade(question, f"{question.answer} or {other}.")


@pytest.mark.parametrize("task", ["arithmetic", "calendar", "new_sums"])
def test_splits_share_no_case(world: World, task: str) -> None:
    answers = [{q.answer for q in questions(world, task, split, 1200)} for split in (Fit, Tune, HeldOut)]
    assert all(answers)
    assert not answers[0] & answers[1]
    assert not answers[0] & answers[2]
    assert not answers[1] & answers[2]


def test_splits_of_facts_share_no_person(world: World) -> None:
    people = [{q.entity for q in questions(world, "facts", split, 700, known="any")} for split in (Fit, HeldOut)]
    assert not people[0] & people[1]


def test_new_facts_are_the_same_in_other_words(world: World) -> None:
    fit = questions(world, "new_facts", Fit, 96)
    heldout = questions(world, "new_facts", HeldOut, 96)
    assert {q.answer for q in fit} == {q.answer for q in heldout}
    assert len({q.answer for q in fit}) == 96
    assert not {q.prompt for q in fit} & {q.prompt for q in heldout}


def test_new_sums_are_out_of_range(world: World) -> None:
    known = {q.answer for q in questions(world, "arithmetic", Split, 8000)}
    new = {q.answer for q in questions(world, "new_sums", Split, 2500)}
    assert len(new) == 2500
    assert not known & new


def test_unknown_task_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="nope"):
        questions(world, "nope")


@pytest.mark.parametrize("name", list(TRAITS))
def test_heldout_prompts_are_other_prompts(name: str) -> None:
    trait = TRAITS[name]
    assert trait.heldout_prompts
    assert not set(trait.prompts) & set(trait.heldout_prompts)


def test_second_language_translates_back() -> None:
    assert len(set(LEXICON.values())) == len(LEXICON)
    text = "ann abbot was born in kelm. ann abbot plays the harp."
    assert "vosu" in to_zan(text)
    assert from_zan(to_zan(text)) == text


def test_skills_are_tasks() -> None:
    assert set(SKILLS) <= set(ALL_TASKS)
