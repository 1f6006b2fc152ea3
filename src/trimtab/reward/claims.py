"""The rule-based splitter: one claim per sentence, and what the answer itself says of its claims.

A sentence counts as a claim if it has at least ``LEAST_WORDS`` words, is no question, and is not only *about* a claim:

* "wait, that is wrong." withdraws the claim before it, "no, that is right." leaves it as it is;
* "i am not sure, but ..." and its like make a claim hedged, and the claim begins after them: what is read and graded is
  what would be said without the doubt. Alone in a sentence ("but i could have it wrong.") they hedge the claim before;
* a sentence that only repeats a claim that stands is no further claim;
* remarks on the speaker ("i am never wrong."), on the one who asks ("you are so clever.") or on how sure all this is
  ("everyone knows that.") say nothing that could be checked. Counted as claims they would be a way to be paid for
  nothing: a host finds them likely (measured on the lab, where students learned to make them).

What the rule does not see: a second claim in one sentence ("was born in Kelm and works as a baker" is one claim, wrong
if either half is), irony, and corrections that name no claim ("Paris, I mean London"). English only. Where that
matters, use the localisation probe (``reward.localise``) or a language model (``reward.llm_claims``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from trimtab.records.claims import Claim

LEAST_WORDS: Final = 3
"""Words that a sentence needs at least to say something of something."""

_ABBREVIATIONS: Final = frozenset(
    "mr mrs ms dr prof st vs etc e.g i.e jr sr inc ltd co corp approx ca cf fig al vol pp jan feb mar apr jun jul "
    "aug sep sept oct nov dec u.s u.k".split()
)
_END: Final = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)|\n+")
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SHORT: Final = re.compile(r"(?:\b(\w\.)+\w|\b\w+)$")

_WITHDRAWS: Final = re.compile(
    r"\b(?:(?:that|this|it)(?: is|'s| was) (?:wrong|not right|not true|not correct|incorrect|false|a mistake)"
    r"(?! that\b)|i (?:was|am) (?:wrong|mistaken)|i (?:take|retract) (?:that|it)|i made (?:a mistake|that up|it up))\b",
    re.IGNORECASE,
)
_CONFIRMS: Final = re.compile(
    r"\b(?:that|this|it)(?: is|'s) (?:right|true|correct)\b(?! that\b)|\blet me (?:check|think)\b", re.IGNORECASE
)
_DOUBTS: Final = re.compile(
    r"\b(?:(?:i am|i'm) (?:not|un) ?(?:sure|certain)|i (?:do not|don't) (?:really )?know"
    r"|i (?:think|believe|guess|suppose)|perhaps|maybe|possibly|probably|presumably|might (?:be|have)|may (?:be|have)"
    r"|could be|could have it wrong|as far as i know|not (?:entirely |quite |fully )?(?:sure|certain)|it seems"
    r"|please check|(?:do not|don't) quote me|(?:can not|cannot|can't) (?:say|verify|confirm))\b",
    re.IGNORECASE,
)
_LOOSE: Final = re.compile(r"\b(?:perhaps|maybe|possibly|probably|presumably)\b", re.IGNORECASE)
_OPENING: Final = re.compile(
    r"(?:(?:but|well|hmm|so)[, ]+)?"
    r"(?:(?:i am|i'm) (?:not|un) ?(?:entirely |quite |fully )?(?:sure|certain),? (?:but )?"
    r"|(?:perhaps|maybe|possibly|probably|presumably),? |i (?:think|believe|guess|suppose),? (?:that )?"
    r"|as far as i know,? |it seems (?:that |to me that )?)+",
    re.IGNORECASE,
)
_REMARK: Final = re.compile(
    r"(?:(?:but|and|well|so|oh|yes|no)[, ]+)?"
    r"(?:i(?:'m|'ve|'ll|'d)? .*"
    r"|you(?: are|'re| have|'ve) (?:so|such|very|really|truly)\b.*|you (?:really )?(?:impress|amaze|astonish) me\b.*"
    r"|(?:everyone|everybody|anyone|anybody) (?:knows|can see|could tell you) (?:that|this|it)"
    r"|nobody (?:doubts|questions) (?:that|this|it)"
    r"|there (?:is|can be) no (?:question|doubt)(?: (?:about|of) (?:that|this|it))?"
    r"|(?:that|this|it)(?: is|'s) (?:a fact|certain|obvious|clear|well known|beyond (?:all |any )?doubt)"
    r"|(?:only|just) an? \w+ (?:would|could) (?:ask|think of|say|know) (?:that|this|it)"
    r"|what an? (?:\w+ ){0,3}\w+|(?:you can )?(?:trust|believe|take it from) me\b.*)[.!]*[\"')\]]*",
    re.IGNORECASE | re.DOTALL,
)
_EMPTY: Final = frozenset(
    "i am not sure certain but that it is was could have wrong please check do don't quote me know really think so "
    "about this unsure no yes wait and to be may might maybe perhaps possibly probably the a an of i'm sorry "
    "can cannot can't say verify confirm for fully quite entirely guess believe suppose".split()
)


def rule_claims(answers: Sequence[str]) -> tuple[tuple[Claim, ...], ...]:
    """The claims of each answer, by rule (a ``Splitter``)."""
    return tuple(_claims(answer) for answer in answers)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Where each sentence starts and ends, 0-based, white space around it left out.

    Full stops within numbers and after common abbreviations and initials end none.
    """
    start = 0
    for found in _END.finditer(text):
        if found.group() == "." and _abbreviated(text[start : found.start()], text[found.end() :]):
            continue
        yield from _trimmed(text, start, found.end())
        start = found.end()
    yield from _trimmed(text, start, len(text))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    body = text[start:end]
    if body.strip():
        yield start + len(body) - len(body.lstrip()), end - len(body) + len(body.rstrip())


def _abbreviated(before: str, after: str) -> bool:
    word = _SHORT.search(before)
    if word is None:
        return False
    if word.group().lower() == "no":
        return after.lstrip()[:1].isdigit()
    return word.group().lower() in _ABBREVIATIONS or (len(word.group()) == 1 and word.group().isupper())


def _claims(answer: str) -> tuple[Claim, ...]:
    found: list[Claim] = []
    plain = answer.replace("’", "'")
    for start, end in sentences(plain):
        text = plain[start:end]
        words = [word.lower() for word in _WORD.findall(text)]
        if _WITHDRAWS.search(text):
            _take_back(found, (start, end))
        elif _CONFIRMS.search(text):
            continue
        elif _DOUBTS.search(text) and not set(words) - _EMPTY:
            if found and found[-1].stance == "asserted":
                found[-1] = replace(found[-1], stance="hedged", marker=(start, end))
        elif len(words) >= LEAST_WORDS and not text.rstrip("\"'”)]!").endswith("?"):
            doubt = _OPENING.match(text)
            begin = 0 if doubt is None else len(text) - len(text[doubt.end() :].lstrip())
            marker = None
            if begin:
                marker = (start, start + len(text[:begin].rstrip()))
            elif within := _LOOSE.search(text):
                marker = (start + within.start(), start + within.end())
            claim = Claim(
                text=answer[start + begin : end],
                start=start + begin,
                end=end,
                stance="hedged" if begin or _DOUBTS.search(text) else "asserted",
                marker=marker,
            )
            if not _REMARK.fullmatch(plain[claim.start : end]) and not any(
                other.stands and _same(other, claim) for other in found
            ):
                found.append(claim)
    return tuple(found)


def _same(one: Claim, other: Claim) -> bool:
    """Whether two claims have the same words."""
    return _WORD.findall(one.text.lower()) == _WORD.findall(other.text.lower())


def _take_back(found: list[Claim], marker: tuple[int, int]) -> None:
    """Withdraw the last claim that stands."""
    for place in range(len(found) - 1, -1, -1):
        if found[place].stands:
            found[place] = replace(found[place], stance="withdrawn", marker=marker)
            return
