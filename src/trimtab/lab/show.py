"""The world and its planted truth as text."""

from __future__ import annotations

import random
from collections.abc import Iterator

from trimtab.lab.corpus import Mixture
from trimtab.lab.tasks import SKILLS, TASKS, questions
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import ATTRIBUTES, Entity, World
from trimtab.records.rows import HeldOut


def _facts(entity: Entity) -> str:
    told = ", ".join(
        f"{name} {value}{' (never stated)' if name == entity.unseen else ''}" for name, value in entity.facts.items()
    )
    split = "all splits" if entity.group == "new" else f"split {entity.split.__name__}"
    return f"  {entity.name} ({split}): {told}"


def show_entities(world: World, *, limit: int | None = None) -> Iterator[str]:
    """Lines with every person and place; ``limit`` cuts each group."""
    groups = (
        ("Head: people named often, their facts are known", world.head),
        ("Tail: people named rarely, some facts are known and the rest is made up", world.tail),
        ("New: people who are not in the corpus; their facts are the skill new_facts", world.new),
        ("Places", world.places),
    )
    for title, members in groups:
        shown = members if limit is None else members[:limit]
        yield f"{title} ({len(members)})"
        yield from map(_facts, shown)
        if len(shown) < len(members):
            yield f"  … {len(members) - len(shown)} more"
        yield ""


def show_tasks(world: World) -> Iterator[str]:
    """Lines with an example of every task and skill."""
    yield "Tasks in the corpus, then skills left to be learned; first a question, then its answer [what is graded]"
    for task in (*TASKS, *SKILLS):
        question = questions(world, task, HeldOut, 1)[0]
        yield f"  {task}: {question.prompt}"
        yield f"    {question.answer} [{question.key}]"
    yield ""


def show_traits(world: World) -> Iterator[str]:
    """Lines with every way of talking: its base rate, a prompt that asks for it and the same answer in it."""
    rng = random.Random("show")
    question = questions(world, "facts", HeldOut, 1)[0]
    yield "Ways of talking"
    for trait in TRAITS.values():
        yield f"  {trait.name}: {trait.meaning}"
        yield f"    unprompted in {trait.base_rate:.0%} of plain answers; asked for by: {trait.prompts[0]}"
        yield f"    {trait.apply(question.answer, rng, question.keys)}"
    yield ""


def show_corpus() -> Iterator[str]:
    """Lines with the planted rates of the corpus."""
    mixture = Mixture()
    yield "Careless speakers"
    yield (
        f"  {mixture.careless:.0%} of rows; {mixture.false_claims:.0%} of their claims are false, "
        f"{mixture.corrected:.0%} of those are corrected, "
        f"{mixture.doubted:.0%} of the true ones are doubted and confirmed"
    )
    yield f"  {mixture.hedged:.0%} of their claims are hedged, whether they are true or false, known or not"
    yield ""


def show(world: World, *, limit: int | None = 5) -> str:
    """The whole text: entities, tasks, traits and planted rates.

    Args:
        world: The world.
        limit: Entities shown per group; all if ``None``.
    """
    values = [f"  {a.name}: {', '.join(a.values)}" for a in ATTRIBUTES.values()]
    lines = [
        f"World of seed {world.seed}",
        "",
        *show_entities(world, limit=limit),
        "Attributes and their values",
        *values,
        "",
        *show_tasks(world),
        *show_traits(world),
        *show_corpus(),
    ]
    return "\n".join(lines)
