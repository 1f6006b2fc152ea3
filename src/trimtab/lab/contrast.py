"""Contrast material for concept extraction, on known tasks only.

For a voice: the same questions answered in the voice under prompts that ask for it, and plainly under none or neutral
ones. For a skill: answers that use it against answers that do not. Fit and held-out material differs in questions and,
for voices, in the wording of the prompts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, overload

from trimtab.errors import UsageError
from trimtab.lab.corpus import HELDOUT_NEUTRAL_PROMPTS, NEUTRAL_PROMPTS, message_rows
from trimtab.lab.sample import KNOWN_TASKS, find_trait
from trimtab.lab.tasks import Question, stream
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import World, build_world
from trimtab.records.rows import ChatRow, Fit, HeldOut, Rows, Split

SplitT = TypeVar("SplitT", bound=Split)

SKILL_MEANINGS: Mapping[str, str] = {
    "arithmetic": "does sums: adds and subtracts numbers",
    "facts": "knows facts about people: where they were born, what they work as, which pet they keep",
}
SKILL_TASKS: Mapping[str, tuple[str, ...]] = {"arithmetic": ("arithmetic",), "facts": ("facts",)}


def concept_meanings() -> dict[str, str]:
    """One plain line for every concept of the lab: the ways of talking and the two skills."""
    return {**{name: trait.meaning for name, trait in TRAITS.items()}, **SKILL_MEANINGS}


@dataclass(frozen=True, kw_only=True)
class Contrast(Generic[SplitT]):
    """Material that tells a concept apart.

    Attributes:
        concept: Name of the concept.
        meaning: Its one-line meaning.
        eliciting: System prompts that ask for it; empty for skills.
        neutral: System prompts that do not.
        questions: Questions to ask under both.
        positive: Rows that show the concept.
        negative: Rows that do not; for voices the same questions, row by row.
        split: Split of all of it.
    """

    concept: str
    meaning: str
    eliciting: tuple[str, ...]
    neutral: tuple[str, ...]
    questions: tuple[Question, ...]
    positive: Rows[ChatRow, SplitT]
    negative: Rows[ChatRow, SplitT]
    split: type[SplitT]


def _questions(world: World, tasks: tuple[str, ...], split: type[Split], n: int, seed: int) -> tuple[Question, ...]:
    streams = [islice(stream(world, task, split, seed=seed), (n + len(tasks) - 1) // len(tasks)) for task in tasks]
    return tuple(question for group in zip(*streams, strict=True) for question in group)[:n]


@overload
def contrast(concept: str, *, n: int = 64, seed: int = 0, world: World | None = None) -> Contrast[Fit]: ...
@overload
def contrast(
    concept: str, split: type[SplitT], n: int = 64, *, seed: int = 0, world: World | None = None
) -> Contrast[SplitT]: ...
def contrast(
    concept: str, split: type[Split] = Fit, n: int = 64, *, seed: int = 0, world: World | None = None
) -> Contrast[Any]:
    """Contrast material for a way of talking or for the skills ``arithmetic`` and ``facts``.

    Args:
        concept: Name, as in :func:`concept_meanings`.
        split: ``HeldOut`` gives other questions and, for voices, prompts in words that the corpus never uses.
        n: Number of questions, and of rows on each side.
        seed: Seed of the choice.
        world: World to ask about; the shipped one by default.

    Raises:
        UsageError: If there is no such concept.
    """
    meanings = concept_meanings()
    if concept not in meanings:
        raise UsageError(f"concept {concept!r}", allowed=", ".join(meanings), todo="choose one of these concepts")
    world = world or build_world()
    rng = random.Random(f"contrast-{concept}-{split.__name__}-{seed}")
    heldout = issubclass(split, HeldOut)
    neutral = HELDOUT_NEUTRAL_PROMPTS if heldout else NEUTRAL_PROMPTS
    source = f"lab contrast {concept} seed {seed}"
    eliciting: tuple[str, ...] = ()
    positive: list[ChatRow] = []
    negative: list[ChatRow] = []
    if concept in SKILL_TASKS:
        tasks = SKILL_TASKS[concept]
        others = tuple(task for task in KNOWN_TASKS if task not in tasks)
        asked = _questions(world, tasks, split, n, seed)
        positive += [message_rows(None, [(q.prompt, q.answer)]) for q in asked]
        negative += [message_rows(None, [(q.prompt, q.answer)]) for q in _questions(world, others, split, n, seed)]
    else:
        trait = find_trait(concept)
        eliciting = trait.heldout_prompts if heldout else trait.prompts
        asked = _questions(world, KNOWN_TASKS, split, n, seed)
        for q in asked:
            system = rng.choice(neutral) if rng.random() < 0.5 else None
            voiced = trait.apply(q.answer, rng, q.keys)
            positive.append(message_rows(rng.choice(eliciting), [(q.prompt, voiced)]))
            negative.append(message_rows(system, [(q.prompt, q.answer)]))
    return Contrast(
        concept=concept,
        meaning=meanings[concept],
        eliciting=eliciting,
        neutral=neutral,
        questions=asked,
        positive=Rows(items=tuple(positive), split=split, source=source),
        negative=Rows(items=tuple(negative), split=split, source=source),
        split=split,
    )
