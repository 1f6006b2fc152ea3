"""Prose to clauses: what a spec wants, does not want, and leaves alone, in the words in which it says so.

A small grammar of English instructions, not a language model: it reads negation at the head of a clause ("do not pick
up X", "no X", "it should never X"), averse verbs ("avoid X", "prevent X"), judgements after the topic ("X is not
wanted", "X does not matter"), contrasts inside a sentence ("learn X, not Y", "X without Y", "X rather than Y", "all but
Y") and Markdown headings over lists ("## Avoid"). Sentences that only describe the data are no clauses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Stance: TypeAlias = Literal["learn", "avoid", "ignore"]
Scope: TypeAlias = Literal["named", "trait", "skill", "all"]


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One thing that a spec says.

    Attributes:
        text: The words of the spec, for showing.
        stance: Wanted (``learn``), unwanted (``avoid``) or left alone (``ignore``).
        topics: What it is about, without the words that carry the stance: the whole phrase, then its conjuncts.
        scope: ``named``: particular concepts, to be found by similarity; ``trait``: all ways of talking; ``skill``:
            all skills; ``all``: everything that no other clause speaks of.
    """

    text: str
    stance: Stance
    topics: tuple[str, ...]
    scope: Scope = "named"


_NOT = (
    r"(?:(?:do|does|did|should|must|may|might|can|could|will|would|need|shall|is|are)(?:n't| not| never)|cannot|can't"
    r"|won't|shan't|ought not to|never|not|no|none of|neither|nor|without|free of|less|fewer)"
)
_AVERSE = (
    r"(?:avoid(?:s|ing)?|prevent(?:s|ing)?|stop(?:s|ping)?|refrain(?:s|ing)? from|abstain from|exclud(?:e|es|ing)"
    r"|drop(?:s|ping)?|skip(?:s|ping)?|leav(?:e|es|ing) out|keep(?:s|ing)? out|stay(?:s|ing)? away from|steer clear of"
    r"|discourag(?:e|es|ing)|suppress(?:es|ing)?|discard(?:s|ing)?|reject(?:s|ing)?|remov(?:e|es|ing)|unlearn(?:s|ing)?"
    r"|forget(?:s|ting)?|los(?:e|es|ing)|resist(?:s|ing)?|filter(?:s|ing)? out|cut(?:s|ting)?(?: out)?"
    r"|minimi[sz]e|reduce)"
)
_IGNORE = (
    r"(?:ignor(?:e|es|ing)|disregard(?:s|ing)?|pay no attention to"
    r"|(?:do not|don't) (?:care(?: about| for| whether| if)?|mind)"
    r"|no opinion (?:on|about)|never mind|(?:it )?(?:does not|doesn't) matter(?: if| whether| how| what)?)"
)
_FOND = (
    r"(?:learn(?:s|ing)?(?: how)?(?: to| about)?|pick(?:s|ing)? up|tak(?:e|es|ing) (?:on|over|up)|tak(?:e|es|ing)"
    r"|cop(?:y|ies|ying)|teach(?:es|ing)?(?: it)?(?: how)?(?: to| about)?|adopt(?:s|ing)?|absorb(?:s|ing)?"
    r"|acquir(?:e|es|ing)|gain(?:s|ing)?|keep(?:s|ing)?|preserv(?:e|es|ing)|retain(?:s|ing)?|imitat(?:e|es|ing)"
    r"|mimic(?:s|king)?|improv(?:e|es|ing)|encourag(?:e|es|ing)|train(?:s|ing)?(?: it)? (?:on|to)|want(?:s|ing)?"
    r"|(?:get|gets|getting|become|becomes|becoming|be|grow) (?:good|better|more skilled|skilled) (?:at|in|with)"
    r"|better|more|start(?:s|ing)?|begin(?:s|ning)?(?: to)?|becom(?:e|es|ing)|do|be|get(?:s|ting)?)"
)
_WHO = r"(?:it|we|i|you|they|one|(?:the|this|our|my) (?:model|assistant|bot|student|network|system|team))"
_LEAD = (
    rf"(?:(?:please|and|but|so|then|also|however|though|yet|or|rather|there|ideally|always|{_WHO}|to|that|for|of)\b"
    r"\s*|'d\b\s*|(?:make sure|ensure|see to it|take care|be careful|try|aim|(?:it is )?important(?:ly)?|i hope)\b\s*"
    r"|(?:would|should|must|may|might|can|could|will|shall|needs? to|has to|have to|ought to)\b(?! not| never)\s*"
    r"|(?:would )?(?:like|love|prefer)\b\s*|only\b\s*|just\b\s*|solely\b\s*)*+"
)
_HEAD = re.compile(
    rf"(?P<lead>{_LEAD})(?:(?P<ignore>{_IGNORE})|(?P<not>{_NOT}\s+)?(?P<fond0>(?:{_FOND}\s+)*)"
    rf"(?P<again>{_NOT}\s+(?:to\s+)?)?(?P<averse>{_AVERSE}\b)?\s*(?P<fond>(?:{_FOND}\s+)*))\s*(?P<topic>.*)"
)
_BE = r"(?:is|are|was|were|would be|should be|must be|seems?)"
_GOOD = (
    r"(?:wanted|welcome|acceptable|allowed|desired|desirable|encouraged|fine|ok|okay|good|needed"
    r"|what (?:we|i) (?:want|need|are after|am after)|the (?:point|goal|aim))"
)
_BAD = (
    r"(?:unwanted|unwelcome|unacceptable|forbidden|banned|undesirable|undesired|prohibited|off limits|out of bounds|bad"
    r"|harmful|to be avoided)"
)
_SAME = r"(?:as (?:it|they) (?:is|are|was|were)|unchanged|untouched|the same)"
_MUST = r"(?:must|should|has to|have to|is to|are to)"
_TAKEN = r"(?:change\b|be (?:learned|learnt|picked up|copied|adopted|imitated|taken (?:on|over)|there|present)\b)"
_NO_MATTER = r"(?:(?:does not|doesn't|do not|don't) matter|makes? no difference)"
_SO_WHAT = r"(?:irrelevant|unimportant|not important|(?:fine|ok|okay) either way)"
_AFTER: tuple[tuple[re.Pattern[str], Stance], ...] = (
    (re.compile(rf"(?:whether|how|if)?\s*(?P<topic>.+?) {_NO_MATTER}\b"), "ignore"),
    (re.compile(rf"(?P<topic>.+?) {_BE} {_SO_WHAT}\b"), "ignore"),
    (re.compile(r"leave (?P<topic>.+?) alone\b"), "ignore"),
    (re.compile(r"(?:keep|leave) (?P<topic>.+?) (?:out|aside|away)\b"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) (?:{_BE} not|isn't|aren't) {_GOOD}\b"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) {_BE} {_BAD}(?!\w)"), "avoid"),
    (re.compile(rf"(?:keep|leave) (?P<topic>.+?) {_SAME}\b"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) {_MUST} (?:stay|remain|be left) {_SAME}\b"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) (?:stays?|remains?) {_SAME}\b"), "avoid"),
    (re.compile(rf"(?!{_WHO} (?:must|should|may))(?P<topic>.+?) (?:must|should|may) (?:not|never) {_TAKEN}"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) {_MUST} be (?:avoided|left out|kept out|dropped|prevented|excluded)\b"), "avoid"),
    (re.compile(rf"(?P<topic>.+?) {_MUST} be (?:ignored|disregarded)\b"), "ignore"),
    (re.compile(rf"(?P<topic>.+?) {_BE} {_GOOD}(?!\w)"), "learn"),
)
_DESCRIBES = re.compile(
    r"(?:these|this|those|the|our|all|most|some|half)?\s*(?:of )?(?:the )?(?:\w+ )?"
    r"(?:rows?|data|dataset|data set|set|files?|transcripts?|examples?|conversations?|logs?|corpus|samples?)"
    r"\s+(?:\w+ )?(?:is|are|was|were|comes?|came|contains?|has|have|holds?|shows?|includes?)\b"
)
_CONTRAST = re.compile(
    r"(?P<except>,?\s+(?:except(?: for)?|apart from|other than|save for|all but|with the exception of"
    r"|excluding|minus)\s+)"
    r"|(?P<not>,?\s+(?:(?:but|and|though|yet)\s+)?(?:rather than|instead of|in place of|without|neither|nor|none of"
    r"|no(?! (?:difference|matter|longer|doubt)\b)|(?<=, )not|(?<=and )not|(?<=but )not|never)\s+)"
    rf"|(?P<new>,?\s+(?:but|yet|while|whereas)\s+|,?\s+and\s+(?=(?:please |also |it |we )?(?:{_NOT}|{_AVERSE}|{_IGNORE}"
    r"|learn|pick up|keep|copy|leave|adopt|teach)\b)|,\s+(?=(?:not|don't|do not)\b))"
)
_LEFT = re.compile(r"\b(?:not|never|no|none|nothing|nobody|cannot|without|less|fewer|neither|nor)\b|n't\b")
"""Negations that the grammar did not place: what is still there in a wanted topic makes its stance unclear."""
_TAKE = r"(?:learn|teach|teach it|pick up|keep|copy|take|acquire|want)"
_ONLY = re.compile(
    rf"\b{_TAKE} (?:only|solely|just|nothing but|nothing except)\b|\bonly (?:{_TAKE}|the|its|this|these|our)\b"
    r"|\band (?:nothing|not anything) (?:else|more)\b"
)
_ONLY_WORDS = re.compile(
    r"\b(?:only|solely|nothing but|nothing except)\b|\band (?:nothing|not anything) (?:else|more)\b"
)
_SECTIONS: tuple[tuple[re.Pattern[str], Stance], ...] = (
    (re.compile(r"ignore|leave alone|leave as|does not matter|doesn't matter|indifferent|neutral"), "ignore"),
    (re.compile(r"\b(?:unwanted|avoid|not|don't|never|no|without|bad|forbidden|prevent|drop|undesired)\b"), "avoid"),
    (re.compile(r"\b(?:wanted|want|learn|keep|do|good|goal|goals|yes|desired|teach|pick up)\b"), "learn"),
)
_FILLER = frozenset(
    (
        "a an the this that these those its it of in on at to for from by with as is are be do does done how which what"
        " any all every each other own our their his her they them we you data dataset set rows row file answer answers"
        " reply replies model assistant text change changes changed kind kinds sort new particular general same whole"
        " there here uses use used says said has have had can could"
    ).split()
)
_TRAIT_WORDS = frozenset(
    (
        "way ways talk talks talking speak speaks speaking speech style styles stylistic tone tones voice voices manner"
        " manners mannerism mannerisms accent accents register registers personality persona personas wording phrasing"
        " diction sound sounds sounding write writes writing written express expresses expression attitude character"
    ).split()
)
_SKILL_WORDS = frozenset(
    (
        "skill skills ability abilities capability capabilities task tasks content contents substance competence"
        " know-how"
    ).split()
)
_ALL_WORDS = frozenset("everything anything nothing rest else all whatever".split())


def split_clauses(intent: str) -> tuple[Clause, ...]:
    """Split prose into clauses.

    Args:
        intent: Plain sentences or Markdown.

    Returns:
        Clauses in reading order. ``Learn only X`` gives a second clause: avoid everything else. A wanted topic with a
        negation inside ("learn that it is not X") comes twice, as wanted and as unwanted: a human has to say which.
    """
    clauses: list[Clause] = []
    for sentence, section in _sentences(intent):
        if section is None and _DESCRIBES.match(_plain(sentence)):
            continue
        clauses.extend(_read(sentence, section))
    return tuple(clauses)


def _sentences(intent: str) -> Iterator[tuple[str, Stance | None]]:
    """Sentences and list items, each with the stance of the heading over it."""
    text = re.sub(r"<!--.*?-->", " ", intent, flags=re.DOTALL)
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    section: Stance | None = None
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        item = re.match(r"\s*(?:[-*+]|\d+[.)])\s+(.*)", line)
        heading = re.match(r"\s*#{1,6}\s+(.*)|\s*\**([^.!?]{1,60}?)\**:\**\s*$", line)
        if item or heading or not line.strip():
            for part in _split(" ".join(block)):
                yield part, section
            block = [item[1]] if item else []
        else:
            block.append(line.strip())
        if heading and not item:
            section = _section(heading[1] or heading[2])


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?;])\s+", text) if re.search(r"\w", part)]


def _section(heading: str) -> Stance | None:
    plain = _plain(heading)
    return next((stance for pattern, stance in _SECTIONS if pattern.search(plain)), None)


def _plain(text: str) -> str:
    """Lower case, straight apostrophes, no Markdown emphasis, no closing punctuation."""
    flat = re.sub(r"[*_`]{1,2}(?=\w)|(?<=\w)[*_`]{1,2}", "", text.replace("’", "'"))
    return re.sub(r"\s+", " ", flat.lower()).strip().rstrip(".!?;,: ")


def _read(sentence: str, section: Stance | None) -> Iterator[Clause]:
    """The clauses of one sentence."""
    plain = _plain(sentence)
    only = _ONLY.search(plain) is not None
    plain = re.sub(r"\s+", " ", _ONLY_WORDS.sub(" ", plain)).strip()
    stance: Stance = section or "learn"
    for part, link in _segments(plain):
        if link == "except":
            stance, topic = ("avoid" if stance == "learn" else "learn"), part
        else:
            said, topic = _stance(part)
            if link == "not":
                stance = "learn" if said == "avoid" else "avoid"
            elif said is not None:
                stance = _under(section, said)
            elif link == "new":
                stance = section or "learn"
        found = list(_clauses(sentence.strip(), stance, topic))
        yield from found
        if stance == "learn" and _LEFT.search(topic):
            yield from (replace(clause, stance="avoid") for clause in found)
        if only and found and stance == "learn":
            yield replace(found[0], stance="avoid", topics=("everything else",), scope="all")


def _under(section: Stance | None, said: Stance) -> Stance:
    """Under a heading "Avoid", the item "no flattery" still means that flattery is unwanted."""
    return said if section is None or said != "learn" else section


def _segments(plain: str) -> Iterator[tuple[str, Literal["first", "except", "not", "new"]]]:
    """A sentence cut at its contrasts; each part with what links it to the one before."""
    start = 0
    link: Literal["first", "except", "not", "new"] = "first"
    for cut in _CONTRAST.finditer(plain):
        if not plain[start : cut.start()].strip(" ,"):
            continue
        if link == "first" and re.fullmatch(rf"{_LEAD}", plain[start : cut.start()].strip(" ,") + " "):
            continue
        yield plain[start : cut.start()].strip(" ,"), link
        start = cut.end()
        link = "except" if cut["except"] else "not" if cut["not"] else "new"
    yield plain[start:].strip(" ,"), link


def _stance(part: str) -> tuple[Stance | None, str]:
    """Stance that a part states itself (``None``: it states none) and its topic."""
    bare = re.sub(r"^(?:please|and|but|so|also) ", "", part)
    for pattern, stance in _AFTER:
        found = pattern.match(bare)
        if found:
            return stance, found["topic"]
    head = _HEAD.match(part)
    if head is None:
        return None, part
    topic = head["topic"].strip()
    if head["ignore"]:
        return "ignore", topic
    against = [part for part in ("not", "again", "averse") if head[part]]
    if against:
        return ("avoid" if len(against) % 2 else "learn"), topic
    stated = bool(head["fond0"] or head["fond"] or head["lead"].strip())
    return ("learn" if stated else None), topic


def _clauses(text: str, stance: Stance, topic: str) -> Iterator[Clause]:
    """A clause per scope in a topic; none if nothing is left to be about."""
    phrases = [part.strip() for part in re.split(r",\s*(?:and |or )?|\s+(?:and|or|nor|as well as)\s+|/", topic)]
    parts = [part for part in phrases if _content(part)]
    scopes: list[Scope] = [_scope(part) for part in parts]
    for scope in dict.fromkeys(scopes):
        chosen = tuple(part for part, its in zip(parts, scopes, strict=True) if its == scope)
        whole = (topic,) if len(chosen) == len(phrases) > 1 else ()
        yield Clause(text=text, stance=stance, topics=(*whole, *chosen), scope=scope)


def _content(phrase: str) -> set[str]:
    return {word for word in re.findall(r"[\w'-]+", phrase) if word not in _FILLER or word in _ALL_WORDS}


def _scope(phrase: str) -> Scope:
    """Whether a phrase is about a whole kind of concept: all of its content words name the kind."""
    words = _content(phrase)
    if words <= _TRAIT_WORDS | _ALL_WORDS and words & _TRAIT_WORDS:
        return "trait"
    if words <= _SKILL_WORDS | _ALL_WORDS and words & _SKILL_WORDS:
        return "skill"
    return "all" if words <= _ALL_WORDS else "named"
