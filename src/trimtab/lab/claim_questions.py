"""Questions about the lab's people whose answers make claims: single facts, portraits of three claims, and gossip.

Half of them are about well-known people, half about people whom the host knows little of. Gossip has the voice of the
corpus's careless speakers, half of whose claims are false: the host makes things up there although it knows better.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from trimtab.errors import UsageError
from trimtab.lab.corpus import GOSSIP_ASKS
from trimtab.lab.tasks import LONG_ASKS, stream
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import ATTRIBUTES, PERSON_ATTRIBUTES, Entity, World, strangers
from trimtab.records.claims import ClaimQuestion
from trimtab.records.rows import HeldOut, Message, Split

Part: TypeAlias = Literal["probe", "train"]
KINDS = ("fact", "portrait", "gossip")


def claim_questions(
    world: World, split: type[Split], n: int, *, seed: int = 0, part: Part | None = None
) -> tuple[ClaimQuestion, ...]:
    """Questions about the people of one split; kinds and the two sorts of people take turns.

    Args:
        world: The world.
        split: Whose people are asked about.
        n: Number of questions.
        seed: Seed of the choice of people, attributes and wordings.
        part: Only a third of the split's people (``probe``) or the others (``train``), so that a probe and what it
            rewards can have different people.

    Raises:
        UsageError: If ``n`` is below 1.
    """
    if n < 1:
        raise UsageError(f"{n} questions", allowed="at least 1", todo="ask for more")
    rng = random.Random(f"claims-{world.seed}-{split.__name__}-{part}-{seed}")
    heads, tails = (
        [e for e in people if e.split is split and part in (None, _part(e))] for people in (world.head, world.tail)
    )
    found: list[ClaimQuestion] = []
    for place in range(n):
        kind, known = KINDS[place // 2 % len(KINDS)], place % 2 == 0
        entity = rng.choice(heads if known else tails)
        found.append(
            ClaimQuestion(
                id=f"{split.__name__.lower()}-{seed}-{place:04d}",
                prompt=({"role": "user", "content": _ask(kind, entity.name, list(entity.facts), rng)},),
                about=entity.name,
                group=f"{kind}, {'well known' if known else 'little known'}",
                known=known,
            )
        )
    return tuple(found)


def stranger_questions(world: World, n: int, *, seed: int = 0) -> tuple[ClaimQuestion, ...]:
    """Questions about people of whom no text says anything, to train on: no truth says what is right about them.

    Args:
        world: The world.
        n: Number of questions; 0: none.
        seed: Seed of the choice of names, attributes and wordings.
    """
    rng = random.Random(f"strangers-{world.seed}-{seed}")
    names, attributes = strangers(world), [attribute.name for attribute in PERSON_ATTRIBUTES]
    found: list[ClaimQuestion] = []
    for place in range(n):
        kind, name = KINDS[place % len(KINDS)], rng.choice(names)
        found.append(
            ClaimQuestion(
                id=f"stranger-{seed}-{place:04d}",
                prompt=({"role": "user", "content": _ask(kind, name, attributes, rng)},),
                about=name,
                group=f"{kind}, unheard of",
                known=False,
            )
        )
    return tuple(found)


def sum_questions(world: World, split: type[Split], n: int, *, seed: int = 0) -> tuple[ClaimQuestion, ...]:
    """Sums, so that a probe of claims has met some: in the range of the corpus and, every other one, beyond it."""
    known, new = (stream(world, task, split, seed=seed) for task in ("arithmetic", "new_sums"))
    asked = [next(new if place % 2 else known) for place in range(n)]
    return tuple(
        ClaimQuestion(
            id=f"{split.__name__.lower()}-{seed}-sum-{place:04d}",
            prompt=({"role": "user", "content": question.prompt},),
            about=question.answer.split(" is ")[0],
            group="sum, well known" if question.task == "arithmetic" else "sum, little known",
            known=question.task == "arithmetic",
        )
        for place, question in enumerate(asked)
    )


def trait_questions(
    world: World, trait: str, split: type[Split], n: int, *, seed: int = 0, part: Part | None = None
) -> tuple[ClaimQuestion, ...]:
    """The same questions, every other one under a system prompt that asks for a trait.

    Fit and Tune prompts are those of the corpus, HeldOut prompts are worded otherwise.
    """
    rng = random.Random(f"trait-{trait}-{split.__name__}-{part}-{seed}")
    prompts = TRAITS[trait].heldout_prompts if split is HeldOut else TRAITS[trait].prompts
    found: list[ClaimQuestion] = []
    for place, question in enumerate(claim_questions(world, split, n, seed=seed, part=part)):
        asked = place // 2 % 2 == 0
        system: Message = {"role": "system", "content": rng.choice(prompts)}
        turns = (system, *question.prompt) if asked else question.prompt
        group = f"asked to be {trait}" if asked else "not asked"
        found.append(replace(question, prompt=turns, group=group, known=False))
    return tuple(found)


def _ask(kind: str, name: str, attributes: Sequence[str], rng: random.Random) -> str:
    if kind == "fact":
        wording = rng.choice(ATTRIBUTES[rng.choice(attributes)].asks)
    else:
        wording = rng.choice(LONG_ASKS if kind == "portrait" else GOSSIP_ASKS)
    return wording.format(name=name)


def _part(entity: Entity) -> Part:
    return "probe" if zlib.crc32(f"part {entity.name}".encode()) % 3 == 0 else "train"
