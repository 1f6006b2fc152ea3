"""What each clause of a spec says of each concept, by cosine similarity of sentence embeddings.

A concept is compared by its name and by its meaning, whichever is closer. A clause about a whole kind ("the way it
talks") speaks of every concept of that kind unless another clause names the concept. The constants were set on one half
of a hand-written table of specs and concepts (``tests/unit/decide/cases.yaml``) and checked on the other half.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trimtab.decide.clauses import Clause, Stance
from trimtab.records.forecast import ConceptForecast

SILENCE = 0.46
"""Cosine at which a clause begins to speak of a concept; below it, the general reading or silence is closer."""
MARGIN = 0.04
"""A ruling needs to beat the best reading with another verdict by this cosine difference."""
KIND_FLOOR = 0.55
"""Cosine with ``WAYS_OF_TALKING`` from which a clause is about all ways of talking, whatever words it uses."""
WAYS_OF_TALKING = ("a way of talking", "the style, tone and manner of speaking")

OPPOSITES: tuple[tuple[str, str], ...] = (
    (r"agree\w*", r"disagree\w*|contradict\w*|push\w* back"),
    (r"comply|complies|complying|obey\w*", r"refus\w*|declin\w*|reject\w*"),
    (r"long|longer|lengthy|wordy|verbose|detailed|elaborate", r"short|shorter|brief|briefly|terse|concise|few|fewer"),
    (r"sure|certain|certainty|confident|confidence|overconfiden\w*", r"unsure|uncertain\w*|doubt\w*|hedg\w*|hesita\w*"),
    (r"polite\w*|courteous\w*|respectful\w*", r"rude\w*|insult\w*|toxic\w*|hateful|vulgar|swear\w*|profan\w*"),
    (r"formal\w*", r"informal\w*|casual\w*|relaxed"),
    (r"cheerful\w*|happy|upbeat|excited", r"sad|gloomy|sombre|subdued"),
    (r"hones\w*|truth\w*", r"lies?|lying|decei\w*|decept\w*|dishonest\w*|mislead\w*"),
)  # fmt: skip
"""Words that embeddings hold for neighbours though they mean the opposite: a clause with one does not speak of a
meaning with the other."""


@runtime_checkable
class Embedder(Protocol):
    """Texts to unit vectors. ``trimtab.lens.embed.sentence_embedder()`` is the real one."""

    def __call__(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        """Embed ``texts``: array ``[text, dim]``, each row of L2 norm 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the spec can be taken to say of one concept, and how well that fits.

    Attributes:
        stance: ``None``: it says nothing.
        score: Cosine of the closest phrase; ``SILENCE`` for a general clause and for silence.
        clause: The clause that says so; ``None`` for silence.
        general: Whether the clause speaks of the whole kind, not of this concept.
    """

    stance: Stance | None
    score: float
    clause: Clause | None
    general: bool = False


def read_spec_for(
    clauses: Sequence[Clause], concepts: Sequence[ConceptForecast], embed: Embedder
) -> Mapping[str, tuple[Reading, ...]]:
    """All readings of a spec for each concept.

    Args:
        clauses: Of the spec.
        concepts: Their names, meanings and kinds are used, nothing else.
        embed: Texts to unit vectors.

    Returns:
        For each concept its readings, best first, at most one per stance and one for silence; never empty.
    """
    vectors = _Vectors(embed)
    vectors.add([topic for clause in clauses for topic in clause.topics])
    vectors.add([text for concept in concepts for text in _texts(concept)])
    vectors.add(WAYS_OF_TALKING)
    found = [_with_kind(clause, concepts, vectors) for clause in clauses]
    return {concept.concept: _readings(found, concept, vectors) for concept in concepts}


def closest(text: str, others: Sequence[str], embed: Embedder) -> tuple[str, float]:
    """The text among ``others`` (at least one) with the largest cosine, and that cosine."""
    vectors = embed([text, *others])
    cosines = vectors[1:] @ vectors[0]
    return others[int(cosines.argmax())], float(cosines.max())


class _Vectors:
    """Embeddings by text, each made once."""

    def __init__(self, embed: Embedder) -> None:
        self._embed = embed
        self._known: dict[str, NDArray[np.float32]] = {}

    def add(self, texts: Sequence[str]) -> None:
        """Embed what is not there yet, in one call."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embed(new), strict=True))

    def closest(self, text: str, others: Sequence[str]) -> float:
        """Largest cosine of a text with any of the others (all added before)."""
        return max(float(self._known[text] @ self._known[other]) for other in others)


def _texts(concept: ConceptForecast) -> tuple[str, str]:
    return _spaced(concept.concept), concept.meaning


def _spaced(name: str) -> str:
    return re.sub(r"[-_]+", " ", name)


def _with_kind(clause: Clause, concepts: Sequence[ConceptForecast], vectors: _Vectors) -> Clause:
    """A clause that says "all ways of talking" in words that the grammar does not know gets that scope."""
    if clause.scope != "named":
        return clause
    kind = vectors.closest(clause.topics[0], WAYS_OF_TALKING)
    named = max((vectors.closest(clause.topics[0], _texts(concept)) for concept in concepts), default=-1.0)
    return replace(clause, scope="trait") if kind >= KIND_FLOOR and kind > named else clause


def _readings(clauses: Sequence[Clause], concept: ConceptForecast, vectors: _Vectors) -> tuple[Reading, ...]:
    best: dict[Stance | None, Reading] = {}
    for reading in (*_named(clauses, concept, vectors), *_general(clauses, concept.kind)):
        if reading.stance not in best or reading.score > best[reading.stance].score:
            best[reading.stance] = reading
    return tuple(sorted(best.values(), key=lambda reading: -reading.score))


def _named(clauses: Sequence[Clause], concept: ConceptForecast, vectors: _Vectors) -> list[Reading]:
    texts = _texts(concept)
    return [
        Reading(stance=clause.stance, score=vectors.closest(topic, texts), clause=clause)
        for clause in clauses
        if clause.scope == "named"
        for topic in clause.topics
        if not any(opposed(topic, text) for text in texts)
    ]


def _general(clauses: Sequence[Clause], kind: str) -> list[Reading]:
    """Clauses about the whole kind; failing them, about everything; failing them, silence."""
    for scope in (kind, "all"):
        found = [clause for clause in clauses if clause.scope == scope]
        if found:
            return [Reading(stance=clause.stance, score=SILENCE, clause=clause, general=True) for clause in found]
    return [Reading(stance=None, score=SILENCE, clause=None, general=True)]


def opposed(first: str, second: str) -> bool:
    """Whether one text has a word of which the other has only the opposite."""
    return any((_pole(first, pair), _pole(second, pair)) in ((1, -1), (-1, 1)) for pair in OPPOSITES)


def _pole(text: str, pair: tuple[str, str]) -> int:
    """1 and -1: only words of the first or second kind; 0: neither or both. "Not sure" counts as unsure."""
    plain = re.sub(r"\bnot (?:\w+ )?(sure|certain|confident)\b", "unsure", text.lower())
    positive, negative = (re.search(rf"\b(?:{words})\b", plain) is not None for words in pair)
    return int(positive) - int(negative)
