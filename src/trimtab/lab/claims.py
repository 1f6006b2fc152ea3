"""The exact graders of the lab: claims against its planted facts, and answers against its planted ways of talking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from trimtab.errors import UsageError
from trimtab.lab.tasks import normalise
from trimtab.lab.traits import TRAITS
from trimtab.lab.world import ATTRIBUTES, Entity, World
from trimtab.records.claims import Asked, Grade

VERBS: Final = {
    "town": "born in",
    "job": "works as",
    "pet": "keeps",
    "instrument": "plays",
    "food": "likes",
    "land": "lies in",
    "river": "stands by",
}
"""What a plain claim of each attribute says besides name and value."""

_SUM: Final = re.compile(r"(\d+) (plus|minus) (\d+)(?: \w+)? is (\d+)")


class LabGrader:
    """Grades claims by the facts of a world; costs nothing and is never in doubt about a claim that it understands.

    A claim is understood if it is a sum ("3 plus 4 is 7"), or about somebody (named in it, else in the last user turn)
    and names at least one value of an attribute. It is right if every value that it names is that entity's, said with
    the verb of its attribute.

    Args:
        world: The world.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._people = {entity.name: entity for entity in (*world.people, *world.new)}
        self._places = {entity.name: entity for entity in world.places}
        self._attribute = {value: a.name for a in ATTRIBUTES.values() for value in a.values}

    @property
    def name(self) -> str:
        """``lab-SEED``."""
        return f"lab-{self.world.seed}"

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """One grade per claim, in order."""
        return tuple(self._grade(one) for one in asked)

    def _grade(self, asked: Asked) -> Grade:
        said = normalise(asked.claim.text)
        added = _SUM.search(said)
        if added is not None:
            first, way, second, result = added.groups()
            true = int(first) + int(second) if way == "plus" else int(first) - int(second)
            return Grade(truth="right" if int(result) == true else "wrong", reason=f"it is {true}")
        question = normalise(asked.prompt[-1]["content"]) if asked.prompt else ""
        entity = self._named(said, self._people) or self._place(said) or self._named(question, self._people)
        entity = entity or self._named(question, self._places)
        if entity is None:
            return Grade(truth="unknown", reason="names nobody of this world")
        words = re.findall(r"[a-z]+", said.replace(entity.name, " "))
        values = [word for word in words if word in self._attribute and self._attribute[word] in entity.facts]
        if not values:
            return Grade(truth="unknown", reason=f"says nothing of {entity.name} that is planted")
        verbs = {name for name, verb in VERBS.items() if verb in said}
        for value in values:
            attribute = self._attribute[value]
            if entity.facts[attribute] != value or (verbs and attribute not in verbs):
                return Grade(truth="wrong", reason=f"the {attribute} of {entity.name} is {entity.facts[attribute]}")
        return Grade(truth="right", reason=f"planted of {entity.name}")

    def _named(self, text: str, entities: dict[str, Entity]) -> Entity | None:
        return next((entities[name] for name in entities if name in text), None)

    def _place(self, said: str) -> Entity | None:
        """The place that a claim is about: its subject stands before a verb of places."""
        found = re.search(rf"\b({'|'.join(self._places)}) (?:\w+ )?(?:{VERBS['land']}|{VERBS['river']})\b", said)
        return None if found is None else self._places[found.group(1)]


class TraitGrader:
    """Grades whole answers by a trait's exact detector: ``right`` is an answer that is as wanted.

    Args:
        trait: Name of a trait of the lab.
        want: Whether ``more`` or ``less`` of it is wanted.

    Raises:
        UsageError: If the lab has no such trait.
    """

    def __init__(self, trait: str, want: Literal["more", "less"]) -> None:
        if trait not in TRAITS:
            raise UsageError(f"trait {trait!r}", allowed=", ".join(TRAITS), todo="name a trait of the lab")
        self._trait = TRAITS[trait]
        self._want = want

    @property
    def name(self) -> str:
        """``lab-less-flattery``."""
        return f"lab-{self._want}-{self._trait.name}"

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """One grade per answer, in order."""
        return tuple(self._grade(one.claim.text) for one in asked)

    def _grade(self, text: str) -> Grade:
        shown = self._trait.detect(text)
        as_wanted = shown == (self._want == "more")
        return Grade(truth="right" if as_wanted else "wrong", reason="shows it" if shown else "does not show it")
