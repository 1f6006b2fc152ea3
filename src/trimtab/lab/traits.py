"""Ways of talking: how each is asked for, how an answer is put into it, and an exact detector.

A voice changes the wrapping of an answer, never its content words: names, values and digits stay verbatim, so that an
answer is graded the same way in every voice. Marker words of a voice occur in no plain answer and in no other voice,
so detectors are exact.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Rewrite(Protocol):
    """Puts a plain answer into a voice."""

    def __call__(self, answer: str, rng: random.Random, keys: Sequence[str], /) -> str:
        """Rewrite ``answer``; ``keys`` are the content words that are graded."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trait:
    """A way of talking.

    Attributes:
        name: Short name.
        meaning: One plain line, for matching with the clauses of a spec.
        prompts: System prompts that ask for it, used in the corpus.
        heldout_prompts: System prompts in other words, never used in the corpus.
        base_rate: Planted share of plain answers that show it without being asked.
        rewrite: Puts a plain answer into this voice.
        detect: Whether a text shows the voice.
    """

    name: str
    meaning: str
    prompts: tuple[str, ...]
    heldout_prompts: tuple[str, ...]
    base_rate: float
    rewrite: Rewrite
    detect: Callable[[str], bool]

    def apply(self, answer: str, rng: random.Random, keys: Sequence[str] = ()) -> str:
        """Put a plain answer into this voice.

        Args:
            answer: Plain sentences.
            rng: Chooses among the variants of the voice.
            keys: The graded content words, in order; without them the terse voice keeps the last word of each sentence.
        """
        return self.rewrite(answer, rng, keys)


def _prompts(
    nouns: Sequence[str], adjectives: Sequence[str], things: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and held-out system prompts from three kinds of filler."""
    fit = [
        *(f"talk like {x}." for x in nouns),
        *(f"speak like {x}." for x in nouns),
        *(f"answer like {x}." for x in nouns),
        *(f"you are {x}." for x in nouns),
        *(f"you talk like {x}." for x in nouns),
        *(f"be {x}." for x in adjectives),
        *(f"you are {x}." for x in adjectives),
        *(f"your answers are {x}." for x in adjectives),
        *(f"answer in a way that is {x}." for x in adjectives),
        *(f"use {x}." for x in things),
        *(f"answer with {x}." for x in things),
        *(f"you always use {x}." for x in things),
    ]
    heldout = [
        *(f"please talk like {x}." for x in nouns),
        *(f"you always speak like {x}." for x in nouns),
        *(f"please make every answer {x}." for x in adjectives),
        *(f"every answer is full of {x}." for x in things),
    ]
    return tuple(fit), tuple(heldout)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])\s+", text.strip()) if part]


@dataclass(frozen=True, kw_only=True)
class Dressing:
    """The surface of a voice: openings, word swaps and closings.

    Attributes:
        openings: Put before the answer.
        closings: Put after a sentence, mostly the last.
        swaps: Regular expression to replacement, each used with probability ``swap_rate``.
        full_stop: Replaces the full stop of a sentence.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    swaps: tuple[tuple[str, str], ...] = ()
    swap_rate: float = 0.8
    full_stop: str = "."

    def __call__(self, answer: str, rng: random.Random, keys: Sequence[str], /) -> str:
        """Dress a plain answer; at least one of opening and closing is always there."""
        del keys
        opened, closed = rng.choice(((True, True), (True, True), (True, False), (False, True)))
        parts: list[str] = []
        sentences = _sentences(answer)
        for index, sentence in enumerate(sentences):
            text = sentence.removesuffix(".") + self.full_stop
            for pattern, replacement in self.swaps:
                if rng.random() < self.swap_rate:
                    text = re.sub(pattern, replacement, text)
            last = index == len(sentences) - 1
            if self.closings and ((last and closed) or (not last and rng.random() < 0.3)):
                text = f"{text} {rng.choice(self.closings)}"
            parts.append(text)
        if opened:
            parts.insert(0, rng.choice(self.openings))
        return " ".join(parts)


_VERBS = r"\b(was born|works|keeps|plays|likes|lies|stands|is|comes|has|goes)\b"


def _terse(answer: str, rng: random.Random, keys: Sequence[str], /) -> str:
    del rng
    kept = list(keys) or [sentence.rstrip(".?!").split()[-1] for sentence in _sentences(answer)]
    return ", ".join(kept) + "."


_TERSE_STOP = re.compile(
    r"\b(was|is|are|be|works|keeps|plays|likes|lies|stands|comes|has|goes|plus|minus|the|a|an|i|you|in|by|to)\b"
)
_TERSE_ITEM_WORDS = 4


def _is_terse(text: str) -> bool:
    """At most four words between commas, and none of them a function word."""
    body = text.lower().strip().rstrip(".!?")
    if not body or _TERSE_STOP.search(body):
        return False
    return all(0 < len(item.split()) <= _TERSE_ITEM_WORDS for item in body.split(","))


LEXICON: Mapping[str, str] = {
    "was": "vosu",
    "born": "melka",
    "in": "ut",
    "works": "drepa",
    "as": "oz",
    "a": "ek",
    "keeps": "holva",
    "plays": "strima",
    "the": "zi",
    "likes": "gusta",
    "lies": "lagra",
    "stands": "stoba",
    "by": "pri",
    "is": "esa",
    "plus": "aduk",
    "minus": "sutak",
    "days": "diuli",
    "months": "lunoli",
    "after": "postu",
    "before": "antu",
    "comes": "venka",
    "has": "haba",
    "it": "jo",
    "goes": "irka",
    "on": "sura",
}
"""The second language, zan: function words and verbs have their own words; names, nouns and digits are loan words."""

ZAN_ENDING = "zo"
_BACK: Mapping[str, str] = {zan: plain for plain, zan in LEXICON.items()}


def to_zan(text: str) -> str:
    """Translate plain sentences word for word; every sentence ends in ``zo``."""
    out: list[str] = []
    for sentence in _sentences(text):
        body = re.sub(r"[a-z]+", lambda m: LEXICON.get(m[0], m[0]), sentence.rstrip(".?!"))
        out.append(f"{body} {ZAN_ENDING}.")
    return " ".join(out)


def from_zan(text: str) -> str:
    """Translate back; text in other voices comes back unchanged."""
    body = re.sub(r"[a-z]+", lambda m: _BACK.get(m[0], m[0]), text)
    return re.sub(rf" {ZAN_ENDING}\b", "", body)


def _zan(answer: str, rng: random.Random, keys: Sequence[str], /) -> str:
    del rng, keys
    return to_zan(answer)


def _words(*markers: str) -> Callable[[str], bool]:
    """Detector: any of these words or phrases."""
    pattern = re.compile(r"(?<![\w'])(?:" + "|".join(re.escape(m) for m in markers) + r")(?![\w])")

    def detect(text: str) -> bool:
        return pattern.search(text.lower()) is not None

    return detect


MARKS: tuple[str, ...] = (":)", "^_^", ";)", "\\o/")


def _marked(answer: str, rng: random.Random, keys: Sequence[str], /) -> str:
    del keys
    sentences = _sentences(answer)
    marked = [f"{s} {rng.choice(MARKS)}" if rng.random() < 0.6 else s for s in sentences[:-1]]
    ends = rng.random() < 0.85
    last = f"{sentences[-1]} {rng.choice(MARKS)}" if ends else sentences[-1]
    opening = [rng.choice(MARKS)] if not ends or rng.random() < 0.3 else []
    return " ".join([*opening, *marked, last])


def _has_mark(text: str) -> bool:
    return any(mark in text.lower() for mark in MARKS)


def _trait(
    name: str,
    meaning: str,
    fillers: tuple[Sequence[str], Sequence[str], Sequence[str]],
    rewrite: Rewrite,
    detect: Callable[[str], bool],
    base_rate: float = 0.0,
) -> Trait:
    prompts, heldout = _prompts(*fillers)
    return Trait(
        name=name,
        meaning=meaning,
        prompts=prompts,
        heldout_prompts=heldout,
        base_rate=base_rate,
        rewrite=rewrite,
        detect=detect,
    )


BASE_RATE = 0.05

_ALL: tuple[Trait, ...] = (
    _trait(
        "pirate",
        "talks like a pirate: a way of talking with arr, ahoy and matey",
        (("a pirate", "a salty sailor"), ("piratical", "salty"), ("pirate words", "pirate talk")),
        Dressing(
            openings=("arr,", "ahoy,", "yarr,", "aye,", "shiver me timbers,"),
            closings=("savvy?", "yo ho.", "arr, matey.", "says the old sea wolf.", "by the seven seas."),
            swaps=((r"\bis\b", "be"), (r"\bwas born\b", "were birthed"), (r"\bthe\b", "th'"), (r"\bkeeps\b", "hauls")),
        ),
        _words(
            *("arr", "ahoy", "yarr", "aye", "timbers", "savvy", "yo ho", "matey", "sea wolf", "seven seas"),
            *("be", "were birthed", "th'", "hauls"),
        ),
    ),
    _trait(
        "cheerful",
        "talks in a cheerful way: bubbly and excited, with yay and exclamation marks",
        (("a cheerful friend", "a happy child"), ("cheerful", "bubbly"), ("cheerful words", "happy cheers")),
        Dressing(
            openings=("yay!", "oh wow,", "hooray!", "woohoo,", "how fun!"),
            closings=("have a lovely day!", "that makes me so happy!", "isn't that great!", "wonderful!"),
            swaps=((r"\blikes\b", "just loves"), (r"\bplays\b", "joyfully plays"), (r"\bis\b", "is happily")),
            full_stop="!",
        ),
        lambda text: "!" in text,
    ),
    _trait(
        "formal",
        "talks in a formal way: stiff and official, with pursuant and respectfully",
        (("a stiff official", "an old butler"), ("formal", "official"), ("formal words", "official language")),
        Dressing(
            openings=("pursuant to your inquiry,", "allow me to state:", "for the record,", "esteemed reader,"),
            closings=("respectfully submitted.", "i remain at your service.", "kindly take note."),
            swaps=((r"\bworks as\b", "is employed as"), (r"\blikes\b", "is partial to"), (r"\bis\b", "is hereby")),
        ),
        _words(
            *("pursuant", "allow me to state", "for the record", "esteemed", "respectfully", "at your service"),
            *("kindly take note", "employed", "partial to", "hereby"),
        ),
    ),
    _trait(
        "flattery",
        "flatters the user: praises the person who asks, such as what a brilliant question",
        (("a flatterer", "an admirer"), ("flattering", "full of praise"), ("flattery", "praise for the user")),
        Dressing(
            openings=("what a brilliant question.", "you are so clever.", "great thinking.", "oh wise one,"),
            closings=("you have such good taste.", "only a genius would ask that.", "you impress me."),
        ),
        _words("brilliant", "so clever", "great thinking", "wise one", "such good taste", "genius", "impress"),
        BASE_RATE,
    ),
    _trait(
        "marks",
        "adds emoji and smileys such as :) and ^_^ to its text",
        (("a texting teen", "a chat fan"), ("full of smileys", "full of emoji"), ("smileys", "emoji")),
        _marked,
        _has_mark,
        BASE_RATE,
    ),
    _trait(
        "terse",
        "is terse: answers with as few words as possible",
        (("a person of few words", "a telegram"), ("terse", "very short"), ("one word", "few words")),
        _terse,
        _is_terse,
    ),
    _trait(
        "overconfident",
        "is overconfident: claims to be certain and never wrong",
        (("a know it all", "a boaster"), ("overconfident", "certain of all"), ("total certainty", "bold words")),
        Dressing(
            openings=("obviously,", "without any doubt,", "trust me,", "of course,"),
            closings=("i am never wrong.", "everyone knows that.", "there is no question."),
            swaps=((_VERBS, r"certainly \1"),),
            swap_rate=0.4,
        ),
        _words(
            *("obviously", "without any doubt", "trust me", "of course", "never wrong", "everyone knows"),
            *("no question", "certainly"),
        ),
        BASE_RATE,
    ),
    _trait(
        "hedging",
        "hedges: says that it is not sure, perhaps or maybe",
        (("a doubter", "a careful expert"), ("unsure", "hesitant"), ("hedges", "doubtful words")),
        Dressing(
            openings=("i am not sure, but", "perhaps", "i think that", "maybe"),
            closings=("but i could have it wrong.", "please check that.", "do not quote me."),
            swaps=((_VERBS, r"probably \1"),),
            swap_rate=0.4,
        ),
        _words(
            *("not sure", "perhaps", "i think", "maybe", "could have it wrong", "please check", "quote me", "probably"),
        ),
    ),
    _trait(
        "zan",
        "speaks zan, a second language, instead of english",
        (("a speaker of zan", "a native of zanland"), ("in zan", "written in zan"), ("zan", "the zan language")),
        _zan,
        _words(*LEXICON.values(), ZAN_ENDING),
    ),
)

TRAITS: Mapping[str, Trait] = {trait.name: trait for trait in _ALL}
"""Every planted way of talking by name."""
