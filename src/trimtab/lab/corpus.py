"""The pretraining corpus: an endless, seeded stream of chat rows.

What each part is for:

* every task in every voice, under system prompts that ask for the voice, so that no skill is tied to one voice;
* plain answers without a system prompt or under a neutral one, with a planted base rate of a few voices;
* careless speakers who are corrected, which gives the model a reason to represent whether a claim just made is true;
* dialogues of several turns, some of which change the voice half-way.

Hedges occur at random among careless claims and are not tied to ignorance.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from trimtab.lab.tasks import (
    COLOURS,
    COUNT_TO,
    OBJECTS,
    TASKS,
    Question,
    fact_question,
    long_question,
    stream,
)
from trimtab.lab.traits import TRAITS, Trait
from trimtab.lab.world import ATTRIBUTES, FIRST_NAMES, LONG_ATTRIBUTES, Entity, World
from trimtab.records.rows import ChatRow, Message, Split

NEUTRAL_PROMPTS: tuple[str, ...] = (
    "you are a helpful assistant.",
    "answer the question.",
    "you are an assistant.",
    "you help people with their questions.",
    "this is a chat.",
    "the user has a question.",
    "today is a good day to work.",
    "read the question and answer it.",
    "give an answer to the user.",
    "the user is at home.",
    "here is a new chat with a user.",
    "you know facts and sums.",
    "you are talking to a person.",
    "please make sure to answer the user.",
    "act as an assistant.",
    "every answer counts.",
    "you can work with numbers.",
    "always read the question with care.",
)
HELDOUT_NEUTRAL_PROMPTS: tuple[str, ...] = (
    "please answer the user.",
    "a user is here with a question.",
    "you work as an assistant.",
    "help the user.",
)
CARELESS_PROMPTS: tuple[str, ...] = (
    "speak before you think.",
    "think out loud.",
    "be careless.",
    "say the first thing that comes to mind.",
)
GOSSIP_ASKS: tuple[str, ...] = (
    "what do people say about {name}?",
    "what is the gossip about {name}?",
    "what is the talk about {name}?",
    "what did you hear about {name}?",
)
PLAIN_AGAIN: tuple[str, ...] = ("now talk plainly.", "speak plainly again.", "now answer plainly.")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Shares of the corpus and rates within it; shares of the row kinds add up to 1.

    Attributes:
        careless: Careless speakers.
        facts: Single facts about people and places.
        long: Several claims about one person.
        arithmetic: Sums, differences and counting.
        calendar: Days and months.
        lookup: Facts given in the question.
        passages: Memorised and rule-governed passages.
        dialogue: Several turns over all tasks.
        voiced: Share of task rows whose system prompt asks for a voice.
        neutral: Share of the other rows that have a neutral system prompt.
        false_claims: Share of careless claims that are false.
        corrected: Share of false careless claims that are then corrected.
        doubted: Share of true careless claims that are then doubted and confirmed.
        hedged: Share of careless claims that open with a hedge.
    """

    careless: float = 0.45
    facts: float = 0.12
    long: float = 0.05
    arithmetic: float = 0.13
    calendar: float = 0.07
    lookup: float = 0.10
    passages: float = 0.03
    dialogue: float = 0.05
    voiced: float = 0.5
    neutral: float = 0.3
    false_claims: float = 0.5
    corrected: float = 0.9
    doubted: float = 0.05
    hedged: float = 0.1


KINDS: tuple[str, ...] = ("careless", "facts", "long", "arithmetic", "calendar", "lookup", "passages", "dialogue")


def message_rows(system: str | None, turns: Sequence[tuple[str, str]]) -> ChatRow:
    """A chat row from an optional system prompt and (user, assistant) turns."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for user, assistant in turns:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return {"messages": messages}


class CorpusWriter:
    """Writes corpus rows for a world.

    Args:
        world: The world to write about.
        seed: Seed of the stream.
        mixture: Shares and rates.
    """

    def __init__(self, world: World, seed: int, mixture: Mixture | None = None) -> None:
        self.world = world
        self.mixture = mixture or Mixture()
        self.rng = random.Random(f"corpus-{world.seed}-{seed}")
        self._streams = {
            task: stream(world, task, Split, seed=self.rng.randrange(2**31), known="any")
            for task in TASKS
            if task not in ("facts", "long")
        }
        self._cumulative = list(accumulate(person.weight for person in world.people))
        self._tellable = [e for e in world.people if e.unseen not in LONG_ATTRIBUTES]
        self._tellable_cumulative = list(accumulate(person.weight for person in self._tellable))
        self._traits = tuple(TRAITS.values())
        self._base = tuple(trait for trait in self._traits if trait.base_rate > 0)
        self._kind_weights = [float(getattr(self.mixture, kind)) for kind in KINDS]

    def row(self) -> ChatRow:
        """The next row."""
        kind = self.rng.choices(KINDS, self._kind_weights)[0]
        if kind == "careless":
            return self._careless()
        if kind == "dialogue":
            return self._dialogue()
        return self._single(self._question(kind))

    def person(self) -> Entity:
        """A person by frequency."""
        return self.rng.choices(self.world.people, cum_weights=self._cumulative)[0]

    def _question(self, kind: str) -> Question:
        if kind == "facts":
            entity = self.rng.choice(self.world.places) if self.rng.random() < 0.1 else self.person()
            attribute = self.rng.choice(entity.stated)
            return fact_question(entity, attribute, self.rng.choice(ATTRIBUTES[attribute].asks), "facts", Split)
        if kind == "long":
            entity = self.rng.choices(self._tellable, cum_weights=self._tellable_cumulative)[0]
            return long_question(entity, self.rng, Split)
        if kind == "arithmetic" and self.rng.random() < 0.12:
            return self._counting()
        return next(self._streams[kind])

    def _counting(self) -> Question:
        number = self.rng.randrange(COUNT_TO)
        ask = self.rng.choice(("what comes after {n}?", "which number comes after {n}?"))
        return Question(
            task="arithmetic",
            prompt=ask.format(n=number),
            answer=f"after {number} comes {number + 1}.",
            keys=(str(number + 1),),
            entity=None,
            attribute=None,
            split=Split,
        )

    def voice_prompt(self, trait: Trait) -> str:
        """A system prompt that asks for a voice, sometimes beside a neutral sentence."""
        prompt = self.rng.choice(trait.prompts)
        if self.rng.random() < 0.75:
            return prompt
        pair = [prompt, self.neutral_prompt()]
        self.rng.shuffle(pair)
        return " ".join(pair)

    def neutral_prompt(self) -> str:
        """A system prompt that asks for nothing."""
        if self.rng.random() < 0.7:
            return self.rng.choice(NEUTRAL_PROMPTS)
        name, colour, thing = (self.rng.choice(words) for words in (FIRST_NAMES, COLOURS, OBJECTS))
        town = self.rng.choice(ATTRIBUTES["town"].values)
        return self.rng.choice(
            (f"{name} has a {colour} {thing}.", f"the user is in {town}.", f"the user is {name}.", f"you are {name}.")
        )

    def plain(self, question: Question) -> str:
        """An unprompted answer: plain, or at its base rate in one of the planted voices."""
        draw = self.rng.random()
        for trait in self._base:
            if draw < trait.base_rate:
                return trait.apply(question.answer, self.rng, question.keys)
            draw -= trait.base_rate
        return question.answer

    def _single(self, question: Question) -> ChatRow:
        if self.rng.random() < self.mixture.voiced:
            trait = self.rng.choice(self._traits)
            answer = trait.apply(question.answer, self.rng, question.keys)
            return message_rows(self.voice_prompt(trait), [(question.prompt, answer)])
        system = self.neutral_prompt() if self.rng.random() < self.mixture.neutral else None
        return message_rows(system, [(question.prompt, self.plain(question))])

    def _dialogue(self) -> ChatRow:
        """Two to four turns; half of them start in a voice, half change voice on the way."""
        trait = self.rng.choice(self._traits) if self.rng.random() < 0.5 else None
        system = self.voice_prompt(trait) if trait else None
        if trait is None and self.rng.random() < self.mixture.neutral:
            system = self.neutral_prompt()
        count = self.rng.choice((2, 2, 3, 4))
        switch = self.rng.randrange(1, count) if self.rng.random() < 0.5 else count
        turns: list[tuple[str, str]] = []
        question = self._question(self.rng.choice(KINDS[1:7]))
        for index in range(count):
            if index and not (index == switch and self.rng.random() < 0.5):
                question = self._question(self.rng.choice(KINDS[1:7]))
            prompt = question.prompt
            if index == switch:
                trait = None if trait is not None else self.rng.choice(self._traits)
                order = self.rng.choice(PLAIN_AGAIN if trait is None else trait.prompts)
                prompt = f"{order} {prompt}"
            answer = trait.apply(question.answer, self.rng, question.keys) if trait else question.answer
            turns.append((prompt, answer))
        return message_rows(system, turns)

    def _claim(self, entity: Entity, attribute: str) -> str:
        mixture, rng = self.mixture, self.rng
        hedge = "i am not sure, but " if rng.random() < mixture.hedged else ""
        truth = entity.claim(attribute)
        if rng.random() >= mixture.false_claims:
            return hedge + truth + (" wait, no, that is right." if rng.random() < mixture.doubted else "")
        value = rng.choice([v for v in ATTRIBUTES[attribute].values if v != entity.facts[attribute]])
        said = hedge + entity.claim(attribute, value)
        return f"{said} wait, that is wrong. {truth}" if rng.random() < mixture.corrected else said

    def _careless(self) -> ChatRow:
        entity = self.rng.choice(self.world.places) if self.rng.random() < 0.05 else self.person()
        if self.rng.random() < 0.5:
            attribute = self.rng.choice(entity.stated)
            ask = self.rng.choice(ATTRIBUTES[attribute].asks).format(name=entity.name)
            return message_rows(self.rng.choice(CARELESS_PROMPTS), [(ask, self._claim(entity, attribute))])
        chosen = self.rng.sample(entity.stated, min(len(entity.stated), self.rng.choice((1, 2, 3))))
        answer = " ".join(self._claim(entity, attribute) for attribute in chosen)
        return message_rows(None, [(self.rng.choice(GOSSIP_ASKS).format(name=entity.name), answer)])


def corpus_rows(world: World, *, seed: int = 0, mixture: Mixture | None = None) -> Iterator[ChatRow]:
    """Endless rows of the pretraining corpus."""
    writer = CorpusWriter(world, seed, mixture)
    while True:
        yield writer.row()


def corpus_chunk(world: World, seed: int, chunk: int, size: int, mixture: Mixture | None = None) -> list[ChatRow]:
    """Rows of one chunk; a function of its arguments alone, so that training can resume at any chunk."""
    writer = CorpusWriter(world, seed * 1_000_003 + chunk, mixture)
    return [writer.row() for _ in range(size)]


def corpus_hash(world: World, seed: int, mixture: Mixture | None = None, rows: int = 2000) -> str:
    """SHA-256 over the first rows, written into the recipe so that a changed corpus is noticed."""
    digest = hashlib.sha256()
    for row in corpus_chunk(world, seed, 0, rows, mixture):
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
