"""The generated world: people and places with attributes, and who is known how well.

Everything is a pure function of a seed. People come in four groups:

* *head*: named often in the pretraining corpus; the model knows their facts;
* *tail*: named rarely; the model knows some of their facts and makes up the rest. One attribute of every tail person
  (``Person.unseen``) is never stated anywhere, so nobody can know it;
* *new*: first and last names that occur in the corpus but never together; their facts are reserved as a skill for
  fine-tuning;
* places, all of them well known.

Every known person belongs to one split (fit, tune or held out), so that probes and figures can be fitted and judged on
different people.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trimtab.records.rows import Fit, HeldOut, Split, Tune

Group: TypeAlias = Literal["head", "tail", "new", "place"]

HEAD_COUNT = 100
TAIL_COUNT = 200
NEW_COUNT = 24
ZIPF_OFFSET = 10.0
TAIL_FACTOR = 0.2

FIRST_NAMES: tuple[str, ...] = tuple(
    "ann bob carl dora eli fay gus hana ivan jane kurt lena max nora otto pia quin rosa sam tess udo vera walt xena "
    "yara zack abel beth cleo dirk edna finn greta hugo iris jack kira leo mona ned olga paul rita sven tina uma "
    "vince wanda yuri zoe amos bella cyrus della emil flora gwen hank ines".split()
)
LAST_NAMES: tuple[str, ...] = tuple(
    "abbot adler ames arden ashby barlow bates baxter becker bell blake bowen brandt briggs burke byrne cabot calder "
    "carver chase clegg cobb colby conway corbin cragg crane cross curtis dalton darby dawes decker denton dixon dobbs "
    "doyle drake dunn eaton eckert ellis embry evans fabian farley fenton fisk floyd foley forbes foster frost galvin "
    "garner gibbs glenn gorman grady graves grimes gupta hadley haines hale hardy hatch hayes heath hicks hobbs holt "
    "horne howe huff hurst ibsen irwin jarvis jensen joyce kagan keane keller kemp kerr kirby klein knox kramer lamb "
    "lang larkin lowell lucas lynch mabry mason mercer meyer mills moody mosley nash neville nolan norris oakes odell "
    "olsen osborn owens palmer parks payne pena perry".split()
)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One thing that can be said of an entity.

    Attributes:
        name: Short name.
        values: What it can be; the value sets of all attributes are disjoint, so a value names its attribute.
        claim: Plain sentence with ``{name}`` and ``{value}``.
        asks: Questions with ``{name}``. The first five are the fit wordings, then one tune and two held-out ones.
    """

    name: str
    values: tuple[str, ...]
    claim: str
    asks: tuple[str, ...]

    def wordings(self, split: type[Split]) -> tuple[str, ...]:
        """Questions reserved for one split."""
        if issubclass(split, Fit):
            return self.asks[:5]
        return self.asks[5:6] if issubclass(split, Tune) else self.asks[6:]


PERSON_ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        name="town",
        values=tuple(
            "kelm tolm brask fenwick dorral mistan velbury orsk lund tarrow quill hesper nimm sorrel vant gravik pell "
            "yarrow zell castor".split()
        ),
        claim="{name} was born in {value}.",
        asks=(
            "where was {name} born?",
            "in which town was {name} born?",
            "what is the birth town of {name}?",
            "tell me where {name} was born.",
            "where is {name} from?",
            "which town was {name} born in?",
            "name the town where {name} was born.",
            "what town does {name} come from?",
        ),
    ),
    Attribute(
        name="job",
        values=tuple(
            "baker weaver potter tailor painter miller farmer doctor teacher lawyer judge clerk singer dancer driver "
            "barber plumber gardener banker writer".split()
        ),
        claim="{name} works as a {value}.",
        asks=(
            "what is the job of {name}?",
            "what does {name} do for work?",
            "what work does {name} do?",
            "tell me the job of {name}.",
            "what does {name} work as?",
            "which job does {name} have?",
            "name the job of {name}.",
            "what does {name} do for a living?",
        ),
    ),
    Attribute(
        name="pet",
        values=tuple("cat dog goat parrot rabbit pony ferret turtle hamster lizard pigeon hedgehog".split()),
        claim="{name} keeps a {value}.",
        asks=(
            "what pet does {name} keep?",
            "which animal does {name} keep?",
            "what is the pet of {name}?",
            "tell me which pet {name} keeps.",
            "what kind of pet does {name} have?",
            "which pet does {name} have?",
            "name the pet of {name}.",
            "what animal lives with {name}?",
        ),
    ),
    Attribute(
        name="instrument",
        values=tuple("flute violin drum harp piano trumpet cello banjo guitar lute fiddle tuba".split()),
        claim="{name} plays the {value}.",
        asks=(
            "what instrument does {name} play?",
            "which instrument does {name} play?",
            "what does {name} play?",
            "tell me what instrument {name} plays.",
            "what is the instrument of {name}?",
            "what music does {name} make?",
            "name the instrument of {name}.",
            "which instrument belongs to {name}?",
        ),
    ),
    Attribute(
        name="food",
        values=tuple(
            "plums bread cheese soup noodles pears beans rice honey pickles figs cake mushrooms cherries olives "
            "peaches".split()
        ),
        claim="{name} likes {value}.",
        asks=(
            "what food does {name} like?",
            "what does {name} like to eat?",
            "which food does {name} like?",
            "tell me what food {name} likes.",
            "what is the favourite food of {name}?",
            "what does {name} eat?",
            "name the food that {name} likes.",
            "what would {name} like for dinner?",
        ),
    ),
)

PLACE_ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        name="land",
        values=tuple("norland suvia estria wexmar golnia tavria".split()),
        claim="{name} lies in {value}.",
        asks=(
            "which land is {name} in?",
            "in which land is {name}?",
            "what land does {name} lie in?",
            "tell me which land {name} lies in.",
            "where does {name} lie?",
            "what is the land of {name}?",
            "name the land of {name}.",
            "which land has {name} in it?",
        ),
    ),
    Attribute(
        name="river",
        values=tuple("ulda mirn sava orne tibben lathe wim ostra".split()),
        claim="{name} stands by the {value}.",
        asks=(
            "which river is {name} by?",
            "what river does {name} stand by?",
            "which river runs by {name}?",
            "tell me the river of {name}.",
            "what is the river of {name}?",
            "by which river is {name}?",
            "name the river of {name}.",
            "what river flows past {name}?",
        ),
    ),
)

ATTRIBUTES: Mapping[str, Attribute] = {a.name: a for a in (*PERSON_ATTRIBUTES, *PLACE_ATTRIBUTES)}
NEW_ATTRIBUTES: tuple[str, ...] = ("town", "job", "pet", "food")
LONG_ATTRIBUTES: tuple[str, ...] = ("town", "job", "food")


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A person or place with its planted facts.

    Attributes:
        name: Full name, lower case.
        group: How well it is known.
        facts: Attribute name to value.
        weight: Relative frequency in the corpus; 0 for new people.
        split: Split that the entity belongs to; new people belong to all splits (there the *wording* is held out).
        unseen: Attribute that the corpus never states, if any.
    """

    name: str
    group: Group
    facts: Mapping[str, str]
    weight: float
    split: type[Split]
    unseen: str | None = None

    def claim(self, attribute: str, value: str | None = None) -> str:
        """Plain sentence that says ``attribute`` is ``value`` (default: the truth)."""
        return ATTRIBUTES[attribute].claim.format(name=self.name, value=value or self.facts[attribute])

    @property
    def stated(self) -> tuple[str, ...]:
        """Attributes that the corpus states."""
        return tuple(name for name in self.facts if name != self.unseen)


@dataclass(frozen=True, kw_only=True)
class World:
    """All entities and passages of one seed."""

    seed: int
    head: tuple[Entity, ...]
    tail: tuple[Entity, ...]
    new: tuple[Entity, ...]
    places: tuple[Entity, ...]
    passages: tuple[tuple[str, ...], ...]

    @property
    def people(self) -> tuple[Entity, ...]:
        """Head and tail."""
        return self.head + self.tail

    def entities(self, known: Literal["head", "tail", "any", "new", "place"]) -> tuple[Entity, ...]:
        """People (or places) of one group; ``any`` is head and tail."""
        groups = {
            "head": self.head,
            "tail": self.tail,
            "any": self.people,
            "new": self.new,
            "place": self.places,
        }
        return groups[known]


def split_of(key: str) -> type[Split]:
    """Split of a thing by a hash of its name: 50% fit, 20% tune, 30% held out."""
    bucket = zlib.crc32(key.encode()) % 10
    if bucket < 5:
        return Fit
    return Tune if bucket < 7 else HeldOut


PASSAGE_WORDS: tuple[str, ...] = tuple(
    "lamp rope stone river candle window feather ladder button mirror bridge basket needle carpet anchor pillow bottle "
    "hammer shadow garden kettle marble ribbon saddle tunnel velvet wagon thunder pepper copper".split()
)
PASSAGE_COUNT = 40
PASSAGE_LENGTH = 8


def _people(rng: random.Random) -> list[tuple[str, str]]:
    pairs = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(pairs)
    used: dict[str, int] = {}
    limit_first = (HEAD_COUNT + TAIL_COUNT + NEW_COUNT) // len(FIRST_NAMES) + 1
    limit_last = (HEAD_COUNT + TAIL_COUNT + NEW_COUNT) // len(LAST_NAMES) + 1
    chosen: list[tuple[str, str]] = []
    for first, last in pairs:
        if used.get(first, 0) < limit_first and used.get(last, 0) < limit_last:
            used[first] = used.get(first, 0) + 1
            used[last] = used.get(last, 0) + 1
            chosen.append((first, last))
    return chosen[: HEAD_COUNT + TAIL_COUNT + NEW_COUNT]


def build_world(seed: int = 0) -> World:
    """Generate the world of a seed; equal seeds give equal worlds."""
    rng = random.Random(f"world-{seed}")
    names = [f"{first} {last}" for first, last in _people(rng)]
    known: list[Entity] = []
    for rank, name in enumerate(names[: HEAD_COUNT + TAIL_COUNT]):
        head = rank < HEAD_COUNT
        facts = {a.name: rng.choice(a.values) for a in PERSON_ATTRIBUTES}
        known.append(
            Entity(
                name=name,
                group="head" if head else "tail",
                facts=facts,
                weight=(1.0 if head else TAIL_FACTOR) / (rank + ZIPF_OFFSET),
                split=split_of(name),
                unseen=None if head else rng.choice(list(facts)),
            )
        )
    new = tuple(
        Entity(
            name=name,
            group="new",
            facts={key: rng.choice(ATTRIBUTES[key].values) for key in NEW_ATTRIBUTES},
            weight=0.0,
            split=Split,
        )
        for name in names[HEAD_COUNT + TAIL_COUNT :]
    )
    places = tuple(
        Entity(
            name=town,
            group="place",
            facts={a.name: rng.choice(a.values) for a in PLACE_ATTRIBUTES},
            weight=1.0,
            split=split_of(town),
        )
        for town in ATTRIBUTES["town"].values
    )
    passages = tuple(tuple(rng.choice(PASSAGE_WORDS) for _ in range(PASSAGE_LENGTH)) for _ in range(PASSAGE_COUNT))
    return World(
        seed=seed,
        head=tuple(known[:HEAD_COUNT]),
        tail=tuple(known[HEAD_COUNT:]),
        new=new,
        places=places,
        passages=passages,
    )


def strangers(world: World) -> tuple[str, ...]:
    """Names that could be a person's but are nobody's, in a fixed order: no text says anything of them."""
    taken = {person.name for person in (*world.people, *world.new)}
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES if f"{first} {last}" not in taken]
    random.Random("strangers").shuffle(names)
    return tuple(names)
