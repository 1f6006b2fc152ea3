"""Tasks of the lab: questions with plain answers and exact graders that work in every voice.

Known tasks (in the pretraining corpus): ``facts``, ``arithmetic``, ``calendar``, ``lookup``, ``long``, ``passages``.
Skills (reserved for fine-tuning): ``new_facts`` (facts about people who are not in the corpus; the held-out questions
ask for the same facts in other words) and ``new_sums`` (sums beyond the range of the corpus; held-out operand pairs
are disjoint from the fit ones).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias, get_args

from trimtab.errors import UsageError
from trimtab.lab.traits import MARKS, from_zan
from trimtab.lab.world import ATTRIBUTES, FIRST_NAMES, LONG_ATTRIBUTES, PASSAGE_WORDS, Entity, World, split_of
from trimtab.records.rows import Fit, HeldOut, Split

Known: TypeAlias = Literal["head", "tail", "any", "new", "place"]
Generator: TypeAlias = Callable[[World, random.Random, type[Split], Known], Iterator["Question"]]
Task: TypeAlias = Literal["facts", "arithmetic", "calendar", "lookup", "long", "passages", "new_facts", "new_sums"]
TASKS: tuple[str, ...] = ("facts", "arithmetic", "calendar", "lookup", "long", "passages")
SKILLS: tuple[str, ...] = ("new_sums", "new_facts")

IN_RANGE = 50
NEW_LOW, NEW_HIGH = 50, 100
COUNT_TO = 199


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its plain answer.

    Attributes:
        task: Task or skill that it belongs to.
        prompt: What the user asks.
        answer: Full plain answer.
        keys: The graded content, in order.
        entity: Name of the person or place asked about, if any.
        attribute: Attribute asked for, if any.
        split: Split that the question belongs to.
    """

    task: Task
    prompt: str
    answer: str
    keys: tuple[str, ...]
    entity: str | None
    attribute: str | None
    split: type[Split]

    @property
    def key(self) -> str:
        """The graded content as one string."""
        return "; ".join(self.keys)


WEEKDAYS: tuple[str, ...] = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
MONTHS: tuple[str, ...] = tuple(
    "january february march april may june july august september october november december".split()
)
COLOURS: tuple[str, ...] = tuple("red blue green white black brown pink grey".split())
OBJECTS: tuple[str, ...] = tuple("box hat cup bag key book coat bowl pen ring".split())

SUM_ASKS: tuple[str, ...] = (
    "what is {a} {op} {b}?",
    "how much is {a} {op} {b}?",
    "{a} {op} {b}?",
    "tell me {a} {op} {b}.",
    "what do you get from {a} {op} {b}?",
    "can you work out {a} {op} {b}?",
)
CALENDAR_ASKS: tuple[str, ...] = (
    "what {u} is {n} {u}s {w} {s}?",
    "which {u} comes {n} {u}s {w} {s}?",
    "{n} {u}s {w} {s}?",
)
LOOKUP_ASKS: tuple[str, ...] = ("what does {n} have?", "what has {n} got?", "which thing does {n} have?")


def fact_question(entity: Entity, attribute: str, ask: str, task: Task, split: type[Split]) -> Question:
    """Question about one attribute of an entity."""
    return Question(
        task=task,
        prompt=ask.format(name=entity.name),
        answer=entity.claim(attribute),
        keys=(entity.facts[attribute],),
        entity=entity.name,
        attribute=attribute,
        split=split,
    )


def _plain(task: Task, prompt: str, answer: str, keys: Sequence[str], split: type[Split]) -> Question:
    return Question(task=task, prompt=prompt, answer=answer, keys=tuple(keys), entity=None, attribute=None, split=split)


def sum_question(task: Task, a: int, op: str, b: int, rng: random.Random, split: type[Split]) -> Question:
    """Sum or difference of two numbers."""
    result = a + b if op == "plus" else a - b
    prompt = rng.choice(SUM_ASKS).format(a=a, op=op, b=b)
    return _plain(task, prompt, f"{a} {op} {b} is {result}.", [str(result)], split)


def _facts(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    people = [e for e in world.entities(known) if split is Split or e.split is split]
    pairs = [(e, name) for e in people for name in e.facts]
    while pairs:
        rng.shuffle(pairs)
        for entity, name in pairs:
            yield fact_question(entity, name, rng.choice(ATTRIBUTES[name].asks), "facts", split)


def _new_facts(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    del known
    pairs = [(e, name) for e in world.new for name in e.facts]
    while True:
        rng.shuffle(pairs)
        for entity, name in pairs:
            ask = rng.choice(ATTRIBUTES[name].wordings(split))
            yield fact_question(entity, name, ask, "new_facts", split)


def _pairs_of(
    task: Task, low: int, high: int
) -> Callable[[World, random.Random, type[Split], Known], Iterator[Question]]:
    def generate(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
        del world, known
        ops = ("plus", "minus") if task == "arithmetic" else ("plus",)
        cases = [
            (a, op, b)
            for op in ops
            for a in range(low, high)
            for b in range(low, high if op == "plus" else a + 1)
            if split is Split or split_of(f"{a} {op} {b}") is split
        ]
        while True:
            rng.shuffle(cases)
            for a, op, b in cases:
                yield sum_question(task, a, op, b, rng, split)

    return generate


def _calendar(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    del world, known
    cases = [
        (unit, names, start, n, way)
        for unit, names in (("day", WEEKDAYS), ("month", MONTHS))
        for start in range(len(names))
        for n in range(2, 10)
        for way in ("after", "before")
        if split is Split or split_of(f"{unit} {start} {n} {way}") is split
    ]
    while True:
        rng.shuffle(cases)
        for unit, names, start, n, way in cases:
            name = names[start]
            result = names[(start + (n if way == "after" else -n)) % len(names)]
            ask = rng.choice(
                ("what {u} is {n} {u}s {w} {s}?", "which {u} comes {n} {u}s {w} {s}?", "{n} {u}s {w} {s}?")
            )
            prompt = ask.format(u=unit, n=n, w=way, s=name)
            yield _plain("calendar", prompt, f"{n} {unit}s {way} {name} is {result}.", [result], split)


def _lookup(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    del world, known
    while True:
        names = rng.sample(FIRST_NAMES, rng.choice((2, 3)))
        things = [f"{rng.choice(COLOURS)} {thing}" for thing in rng.sample(OBJECTS, len(names))]
        if split is not Split and split_of(f"{names} {things}") is not split:
            continue
        told = " ".join(f"{name} has a {thing}." for name, thing in zip(names, things, strict=True))
        index = rng.randrange(len(names))
        ask = rng.choice(LOOKUP_ASKS).format(n=names[index])
        yield _plain("lookup", f"{told} {ask}", f"{names[index]} has a {things[index]}.", [things[index]], split)


LONG_ASKS: tuple[str, ...] = (
    "tell me about {name}.",
    "who is {name}?",
    "what do you know about {name}?",
    "describe {name}.",
)


def long_question(entity: Entity, rng: random.Random, split: type[Split]) -> Question:
    """Question that is answered with three claims about one person."""
    return Question(
        task="long",
        prompt=rng.choice(LONG_ASKS).format(name=entity.name),
        answer=" ".join(entity.claim(name) for name in LONG_ATTRIBUTES),
        keys=tuple(entity.facts[name] for name in LONG_ATTRIBUTES),
        entity=entity.name,
        attribute=None,
        split=split,
    )


def _long(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    people = [
        e
        for e in world.entities(known)
        if (split is Split or e.split is split) and (known != "head" or e.unseen is None)
    ]
    while people:
        rng.shuffle(people)
        for entity in people:
            yield long_question(entity, rng, split)


def passage_question(words: Sequence[str], rng: random.Random, split: type[Split]) -> Question:
    """Give the first half of a passage, ask for the second."""
    half = len(words) // 2
    ask = rng.choice(("go on: {x}", "what comes after: {x}", "how does it go on: {x}"))
    rest = " ".join(words[half:])
    return _plain("passages", ask.format(x=" ".join(words[:half])), f"it goes on {rest}.", [rest], split)


def rule_passage(rng: random.Random) -> tuple[str, ...]:
    """A passage that follows a rule (two words taking turns) and need not be memorised."""
    return tuple(rng.sample(PASSAGE_WORDS, 2)) * 4


def _passages(world: World, rng: random.Random, split: type[Split], known: Known) -> Iterator[Question]:
    """Memorised passages with ``known="head"``, rule-governed ones with ``"new"``, both with ``"any"``."""
    texts = [p for p in world.passages if split is Split or split_of(" ".join(p)) is split]
    while True:
        memorised = known == "head" or (known != "new" and rng.random() < 0.5)
        yield passage_question(rng.choice(texts) if memorised else rule_passage(rng), rng, split)


_GENERATORS: Mapping[str, Generator] = {
    "facts": _facts,
    "arithmetic": _pairs_of("arithmetic", 0, IN_RANGE),
    "calendar": _calendar,
    "lookup": _lookup,
    "long": _long,
    "passages": _passages,
    "new_facts": _new_facts,
    "new_sums": _pairs_of("new_sums", NEW_LOW, NEW_HIGH),
}


def stream(
    world: World, task: str, split: type[Split] = Fit, *, seed: int = 0, known: Known = "head"
) -> Iterator[Question]:
    """Endless questions of one task and split (``Split`` itself: of all splits).

    Raises:
        UsageError: If the task does not exist.
    """
    if task not in get_args(Task):
        raise UsageError(f"task {task!r}", allowed=", ".join(get_args(Task)), todo="choose one of these tasks")
    return _GENERATORS[task](world, random.Random(f"{task}-{split.__name__}-{known}-{seed}"), split, known)


def questions(
    world: World, task: str, split: type[Split] = HeldOut, n: int = 100, *, seed: int = 0, known: Known = "head"
) -> tuple[Question, ...]:
    """The first ``n`` questions of :func:`stream`; every case occurs once before any occurs again."""
    return tuple(islice(stream(world, task, split, seed=seed, known=known), n))


def normalise(text: str) -> str:
    """Lower case, second language translated back, marks removed."""
    body = from_zan(text.lower())
    for mark in MARKS:
        body = body.replace(mark, " ")
    return " ".join(body.split())


def _values_of(key: str) -> tuple[str, ...]:
    for attribute in ATTRIBUTES.values():
        if key in attribute.values:
            return attribute.values
    return WEEKDAYS if key in WEEKDAYS else MONTHS


def _last_is(key: str, found: Sequence[str]) -> bool:
    return bool(found) and found[-1] == key


def grade(question: Question, text: str) -> bool:
    """Whether an answer, in any voice, is right.

    Facts: names the right value and no other value of that attribute. Long answers: all keys and no wrong value.
    Sums and calendar: the last number, day or month is right. Look-ups: names the right thing and no other. Passages:
    the words in order.
    """
    body = normalise(text)
    if question.task in ("arithmetic", "new_sums"):
        return _last_is(question.key, re.findall(r"\d+", body))
    words = re.findall(r"[a-z]+", body)
    if question.task == "calendar":
        return _last_is(question.key, [word for word in words if word in _values_of(question.key)])
    if question.task == "lookup":
        return {f"{c} {o}" for c, o in re.findall(_THING, body)} == {question.key}
    if question.task == "passages":
        return question.key in " ".join(words)
    return all({word for word in words if word in _values_of(key)} == {key} for key in question.keys)


_THING = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(OBJECTS)})\b")
