"""Graders that go by reference documents: a rule that needs no language model, and a language model with a search."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, LiteralString

from trimtab.llm.client import Client, Reply
from trimtab.llm.judge import judge
from trimtab.llm.prompts import Data, Part, Request
from trimtab.records.claims import Asked, Grade
from trimtab.records.llm import Failure
from trimtab.reward.claims import sentences
from trimtab.reward.search import Passage, Search

GRADE: Final = "grade a claim"
"""Purpose of the language-model calls in the account."""

_WORD: Final = re.compile(r"(?:(?<!\w)-)?\d+(?:[.,:]\d+)*|[^\W\d_]+(?:[-'’][^\W\d_]+)*|\w+")
_FUNCTION: Final = frozenset(
    "a an the this that these those of in on at by to for from with as into about and or but so than then is are was "
    "were be been being am has have had do does did will would can could may might shall should must it its he she "
    "they him her his hers them their theirs we us our i me my you your who whom whose which what where when also very "
    "there here s certainly really indeed probably perhaps".split()
)
_NEGATIONS: Final = frozenset("not no never nor neither none nobody nothing without cannot hardly".split())
_PRONOUNS: Final = frozenset("he she it they his her its their this that".split())
_LONGEST_SLOT: Final = 3

_Kind = Literal["number", "name", "word"]


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The content words of a sentence, in order.

    Attributes:
        words: Case-folded, endings of verbs and plurals taken off, thousands separators left out.
        kinds: What each is; names are words with a capital, wherever they stand.
        negated: Whether the sentence holds a negation.
    """

    words: tuple[str, ...]
    kinds: tuple[_Kind, ...]
    negated: bool


class DocumentGrader:
    """Grades claims by the words of reference documents. A rule: no model, no cost, every verdict with its reason.

    *Right*: the content words of the claim (all but function words; numbers and names included) stand in one sentence
    of the passages found, in the same order. *Wrong*: no sentence says so, but in one the words before the claim's only
    strange slot are followed by another value of the same kind (an amount or date, a name of up to three words, or one
    other word) and by what follows the slot in the claim, if anything does; the words before the slot are at least two,
    one of them no name (three where the claim has no name), or the slot is a number with a unit behind it. Else
    *unknown*. Word endings (-s, -ed, -ing) do not count. A sentence that is a question, or that is negated where the
    claim is not, decides nothing.

    What it can do: short statements of fact in the documents' own words, such as dates, places, numbers, titles.

    What it cannot do: paraphrase, inference, or arithmetic (these come out as unknown); anything that a sentence says
    of its own truth ("it is a myth that ..."); whose words are whose ("the brother of Ada was born in 1815" makes "Ada
    was born in 1815" right and "Ada was born in 1816" wrong); relations of several values ("plays the harp" makes
    "plays the flute" wrong unless some sentence says that too): pass ``one_value=False`` and only numbers make a claim
    wrong. A claim whose subject is a pronoun is taken to be about the one name that the conversation has mentioned
    before it, and is unknown if that is none or several. English only.

    Args:
        search: Finds passages; ``DocumentSearch`` for a folder of documents.
        k: Passages looked at.
        one_value: Whether names and other words in the slot make a claim wrong, or only numbers do.
    """

    def __init__(self, search: Search, *, k: int = 8, one_value: bool = True) -> None:
        self.name = f"documents rule 1, k={k}, one_value={one_value}, {search.name}"
        self._search = search
        self._k = k
        self._one_value = one_value

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """As ``Grader``; the reason holds the sentence that decided, and where it stands."""
        return tuple(self._grade(one) for one in asked)

    def _grade(self, asked: Asked) -> Grade:
        claim = _resolved(asked)
        if claim is None:
            return Grade(
                truth="unknown", reason="its subject is a pronoun, and not one name alone was mentioned before it"
            )
        said = _words(claim)
        if len(said.words) < 2:
            return Grade(truth="unknown", reason="fewer than two content words")
        passages = self._search(claim, self._k)
        against: str | None = None
        for passage in passages:
            for start, end in sentences(passage.text):
                sentence = passage.text[start:end]
                told = _words(sentence)
                if sentence.rstrip("\"'”’)]").endswith("?") or told.negated != said.negated:
                    continue
                if _holds(told.words, said.words):
                    return Grade(truth="right", reason=f"{passage.source}: {sentence}")
                if against is None and _contradicts(told, said, one_value=self._one_value):
                    against = f"{passage.source}: {sentence}"
        if against is not None:
            return Grade(truth="wrong", reason=against)
        return Grade(truth="unknown", reason=f"none of {len(passages)} passages says it or something else in its place")


_WITH_PASSAGES: Final[LiteralString] = (
    "You check a claim that was made in answer to a question. Each item says that the claim is true, or that it is "
    "false. Answer 1 if the passages below show that what the item says is so, and 0 if they do not. Go by the "
    "passages alone. If they do not settle the claim, both items are 0."
)
_FROM_KNOWLEDGE: Final[LiteralString] = (
    "You check a claim that was made in answer to a question. Each item says that the claim is true, or that it is "
    "false. Answer 1 if you know that what the item says is so, and 0 if you do not. If you are not sure about the "
    "claim, both items are 0."
)
_MOST_CONTEXT: Final = 2000


class LanguageModelGrader:
    """Asks a language model, with passages from a search, or from what it knows by itself.

    Each claim is a request of its own (``llm.judge``): whether it is true and whether it is false are two items among
    controls, so that a claim that gives orders ("answer 1 1 1") gets no verdict for it and touches no other claim's.
    All text of the conversation and of the passages is ``Data``. A passage can still lie: what the search finds is
    believed. A call that fails gives a grade that is not settled; nothing is made up in its place. Replies that cannot
    be read or miss their controls are kept by the client like any other, so asking again costs nothing and helps only
    with another model, search or cache folder.

    The cost of a grade is its share of what the account of the client's folder rose by, at the prices that are set
    there (an upper bound, in their currency); 0 where none are, and for replies that the client had on disk.

    Args:
        client: The endpoint, with its budget and cache.
        search: Finds passages; ``None``: the model judges from its own knowledge, and every reason says so.
        k: Passages shown.
    """

    def __init__(self, client: Client, search: Search | None = None, *, k: int = 5) -> None:
        instructions = _FROM_KNOWLEDGE if search is None else _WITH_PASSAGES
        settings = client.settings
        asked_with = [instructions, settings.temperature, settings.seed, settings.extra_body]
        version = hashlib.sha256(json.dumps(asked_with, sort_keys=True).encode()).hexdigest()[:8]
        source = "own knowledge" if search is None else f"k={k}, {search.name}"
        self.name = f"{settings.model} at {settings.base_url}, instructions and sampling {version}, {source}"
        self._client = client
        self._search = search
        self._k = k

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        """As ``Grader``; claims for which the search finds nothing are unknown, and nothing is asked about them.

        Raises:
            BudgetError: If the budget does not allow the next call; replies that were paid for are in the client's
                folder, so that asking again does not pay again.
            UsageError: If the endpoint refuses the key, the model or the address.
        """
        found = [None if self._search is None else self._search(_query(one), self._k) for one in asked]
        places = [place for place, passages in enumerate(found) if passages is None or passages]
        requests = [_request(asked[place], found[place]) for place in places]
        before = self._most_cost()
        replies = self._client.ask(requests) if requests else ()
        paid = [not (isinstance(reply, Reply) and reply.cached) for reply in replies]
        share = (self._most_cost() - before) / max(1, sum(paid))
        grades = [Grade(truth="unknown", reason="the search finds no passage")] * len(asked)
        for place, reply, charged in zip(places, replies, paid, strict=True):
            grades[place] = _grade(reply, found[place], max(0.0, share) if charged else 0.0)
        return tuple(grades)

    def _most_cost(self) -> float:
        return self._client.account().most_cost or 0.0 if self._client.settings.prices is not None else 0.0


def _grade(reply: Reply[tuple[bool, ...]] | Failure, passages: Sequence[Passage] | None, cost: float) -> Grade:
    if isinstance(reply, Failure):
        return Grade(truth="unknown", reason=f"no verdict: {reply.kind}: {reply.reason}", cost=cost, settled=False)
    source = (
        "from the model's own knowledge, nothing was searched"
        if passages is None
        else "by passages of " + ", ".join(dict.fromkeys(passage.source for passage in passages))
    )
    true, false = reply.value
    if true == false:
        doubt = "both true and false" if true else "not settled"
        return Grade(truth="unknown", reason=f"{reply.model}: {doubt}, {source}", cost=cost)
    return Grade(truth="right" if true else "wrong", reason=f"{reply.model}: {source}", cost=cost)


def _request(asked: Asked, passages: Sequence[Passage] | None) -> Request[tuple[bool, ...]]:
    before = asked.answer[max(0, asked.claim.start - _MOST_CONTEXT) : asked.claim.start]
    context: tuple[Part, ...] = ("\nWhat the answer says before the claim:\n", Data(text=before))
    parts: list[Part] = ["Question:\n", Data(text=_question(asked))]
    parts.extend(context if before.strip() else ())
    for number, passage in enumerate(passages or (), 1):
        parts.extend(_shown(number, passage))
    items = [Data(text=f"This claim is {truth}: {asked.claim.text}") for truth in ("true", "false")]
    return judge(GRADE, _FROM_KNOWLEDGE if passages is None else _WITH_PASSAGES, parts, items)


def _shown(number: int, passage: Passage) -> tuple[Part, ...]:
    return "\nPassage ", number, ":\n", Data(text=passage.text)


def _query(asked: Asked) -> str:
    return f"{asked.claim.text} {_question(asked)}"


def _question(asked: Asked) -> str:
    return next((turn["content"] for turn in reversed(asked.prompt) if turn["role"] == "user"), "")


def _words(text: str) -> _Words:
    plain = text.replace("’", "'").replace("−", "-")
    tokens = _WORD.findall(plain)
    folded = [token.casefold() for token in tokens]
    kept = [
        (token, word)
        for token, word in zip(tokens, folded, strict=True)
        if word not in _FUNCTION and word not in _NEGATIONS and not word.endswith("n't")
    ]
    return _Words(
        words=tuple(_stem(word.removesuffix("'s")) for _, word in kept),
        kinds=tuple(_kind(token) for token, _ in kept),
        negated=any(word in _NEGATIONS or word.endswith("n't") for word in folded),
    )


def _kind(token: str) -> _Kind:
    if token[-1].isdigit():
        return "number"
    return "name" if token[0].isupper() else "word"


def _stem(word: str) -> str:
    """Without thousands separators, or the endings -s, -es, -ed, -ing of words that are long enough to have them."""
    if word[-1].isdigit():
        return re.sub(r",(?=\d{3}\b)", "", word)
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending).removesuffix("e")
    return word.removesuffix("e") if len(word) > 3 else word


def _holds(told: Sequence[str], said: Sequence[str]) -> bool:
    """Whether the words stand in the sentence in this order, with anything in between."""
    rest = iter(told)
    return all(word in rest for word in said)


def _contradicts(told: _Words, said: _Words, *, one_value: bool) -> bool:
    """Whether the sentence has something else of the same kind in the claim's one slot."""
    strange = [place for place, word in enumerate(said.words) if word not in told.words]
    if not strange:
        return False
    first, last = strange[0], strange[-1] + 1
    before, after = said.words[:first], said.words[last:]
    kind = _kind_of(said.kinds[first:last])
    if kind is None or not before or not (one_value or kind == "number"):
        return False
    nameless = "name" not in said.kinds
    if not (kind == "number" and after) and ("word" not in said.kinds[:first] or len(before) < 2 + nameless):
        return False
    return any(
        told.words[start : start + len(before)] == before and _another(told, start + len(before), after, kind)
        for start in range(len(told.words) - len(before))
    )


def _another(told: _Words, here: int, after: Sequence[str], kind: _Kind) -> bool:
    """Whether a value of that kind stands here and, where the claim goes on, what follows it follows this one too."""
    return any(
        _kind_of(told.kinds[here:end]) == kind and (not after or told.words[end : end + len(after)] == tuple(after))
        for end in range(here + 1, min(here + _LONGEST_SLOT, len(told.words)) + 1)
    )


def _kind_of(slot: Sequence[_Kind]) -> _Kind | None:
    """Of what kind a value is: a date or an amount, a name, or one other word; ``None`` if it is no such thing."""
    if not 0 < len(slot) <= _LONGEST_SLOT:
        return None
    if "number" in slot:
        return "number"
    if set(slot) == {"name"}:
        return "name"
    return "word" if len(slot) == 1 else None


def _resolved(asked: Asked) -> str | None:
    """The claim, with a pronoun at its beginning replaced by the one name mentioned before; ``None`` without one."""
    text = asked.claim.text.strip()
    first = _WORD.match(text)
    if first is None or first.group().casefold() not in _PRONOUNS:
        return text
    names = _names(_question(asked)) | _names(asked.answer[: asked.claim.start])
    longest = [name for name in names if not any(set(name) < set(other) for other in names)]
    return " ".join(longest[0]) + text[first.end() :] if len(longest) == 1 else None


def _names(text: str) -> set[tuple[str, ...]]:
    """Runs of words with capitals; one that begins a sentence counts only if another follows it."""
    found: set[tuple[str, ...]] = set()
    for start, end in sentences(text):
        run: list[str] = []
        for place, word in enumerate([*_WORD.findall(text[start:end]), ""]):
            if word[:1].isupper() and not (place == 0 and word.casefold() in _FUNCTION | _PRONOUNS):
                run.append(word)
                continue
            if run and not (len(run) == 1 and place == 1):
                found.add(tuple(run))
            run = []
    return found
