"""The contrasts from which the lab's own concept bank is made: every planted way of talking, and two skills.

A skill is shown by rows that the host cannot answer yet, since what it knows already teaches nothing: sums of a number
within the range of the corpus and one beyond it, and facts about people who are neither in the world nor reserved for
fine-tuning. Neither set shares a question with the skills of the lab's exams.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from trimtab.lab.contrast import SKILL_MEANINGS, concept_meanings, contrast
from trimtab.lab.corpus import message_rows
from trimtab.lab.tasks import IN_RANGE, NEW_HIGH, SUM_ASKS
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import PERSON_ATTRIBUTES, World, strangers
from trimtab.lens.contrast import Contrast, ContrastSet
from trimtab.records.rows import ChatRow, Fit, HeldOut, Split

ELICITING = 12
"""Eliciting prompts of a trait that the bank uses; their order is that of the corpus."""


def _sums(rng: random.Random, heldout: bool) -> ChatRow:
    small, large = rng.randrange(heldout, IN_RANGE, 2), rng.randrange(IN_RANGE, NEW_HIGH)
    a, b = rng.choice(((small, large), (large, small)))
    return message_rows(None, [(rng.choice(SUM_ASKS).format(a=a, op="plus", b=b), f"{a} plus {b} is {a + b}.")])


def _facts(rng: random.Random, names: Sequence[str]) -> ChatRow:
    name, attribute = rng.choice(names), rng.choice(PERSON_ATTRIBUTES)
    value = rng.choice(attribute.values)
    ask = rng.choice(attribute.asks).format(name=name)
    return message_rows(None, [(ask, attribute.claim.format(name=name, value=value))])


def lab_contrasts(world: World, *, n: int = 96, seed: int = 0) -> tuple[Contrast, ...]:
    """One contrast per concept of the lab.

    Args:
        world: The lab's world.
        n: Questions of a trait on each side of the fit / held-out divide; a skill has twice as many rows.
        seed: Seed of their choice.
    """
    unheard = strangers(world)
    half = len(unheard) // 2

    def material(name: str, split: type[Split]) -> ContrastSet:
        heldout = issubclass(split, HeldOut)
        rng = random.Random(f"concepts-{name}-{split.__name__}-{seed}")
        if name == "arithmetic":
            return ContrastSet(rows=tuple(_sums(rng, heldout) for _ in range(2 * n)))
        if name == "facts":
            names = unheard[half:] if heldout else unheard[:half]
            return ContrastSet(rows=tuple(_facts(rng, names) for _ in range(2 * n)))
        found = contrast(name, split, n, seed=seed, world=world)
        return ContrastSet(
            questions=tuple(question.prompt for question in found.questions),
            elicit=found.eliciting[:ELICITING],
            neutral=("", *found.neutral[:3]),
        )

    return tuple(
        Contrast(
            name=name,
            meaning=meaning,
            kind="trait" if name in TRAITS else "skill",
            fit=material(name, Fit),
            held_out=material(name, HeldOut),
        )
        for name, meaning in concept_meanings().items()
        if name in TRAITS or name in SKILL_MEANINGS
    )
