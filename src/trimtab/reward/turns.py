"""One answer in the harness: its tokens, its claims, and what a turn makes of them. No model runs here.

A turn begins at a flagged claim: the answer is cut after it (``inline``) or stays whole (``end``), words are injected,
and whoever runs the model brings its continuation. What came of the claim is then read off the text, by the splitter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, cast

from transformers import PreTrainedTokenizerBase

from trimtab.data.template import words_after
from trimtab.errors import ModelError
from trimtab.records.claims import Action, Claim, Intervention, Said, Stance
from trimtab.records.harness import CLAIM, HarnessSettings, Monitored
from trimtab.records.rows import Message
from trimtab.reward.claims import sentences

_WHOLE: Final = re.compile(r"(?:[.!?][\"'”’)\]]*\s*|\n\s*)$")
_ANCHOR: Final = "."

Kind: TypeAlias = Literal["inject", "retract"]


@dataclass(frozen=True, kw_only=True)
class Read:
    """A claim in the harness.

    Attributes:
        claim: Where it stands and how the answer stands to it.
        probability: P(right), once it is read.
        action: What was done about it.
        settled: Not to be flagged any more.
        corrections: How many corrections led to it.
    """

    claim: Claim
    probability: float | None = None
    action: Action | None = None
    settled: bool = False
    corrections: int = 0


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An answer at some point: tokens, the text that they decode to, which of them the model made, and its claims."""

    ids: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    text: str = ""
    claims: tuple[Read, ...] = ()

    @property
    def own(self) -> int:
        """Tokens that the model generated."""
        return sum(self.generated)

    def with_claim(self, place: int, read: Read) -> Draft:
        """The same with one claim changed."""
        return replace(self, claims=(*self.claims[:place], read, *self.claims[place + 1 :]))


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A turn that waits for the model to go on.

    Attributes:
        kind: Whether the model is asked, or the harness takes the claim back itself.
        place: The flagged claim, as a place in ``kept.claims``.
        kept: What stays of the answer, up to and with the flagged claim or whole; tokens, text and claims.
        injected: The tokens that were put after it.
        rest: What was cut away behind it; it comes back if the model has nothing to say but about the flagged claim.
    """

    kind: Kind
    place: int
    kept: Draft
    injected: tuple[int, ...]
    rest: Draft = field(default_factory=Draft)


@dataclass(kw_only=True)
class Turns:
    """All turns of one answer.

    Attributes:
        tokenizer: The student's tokenizer.
        settings: Of the harness.
        prompt: The conversation before the answer.
        prompt_ids: Its tokens with the opening of the answer.
        stops: Tokens that end an answer.
        draft: The answer as it is.
        opened: The turn that waits for the model.
        first: The first answer.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: HarnessSettings
    prompt: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    stops: frozenset[int]
    first: str = ""
    draft: Draft = field(default_factory=Draft)
    opened: Opened | None = None
    _new: tuple[int, ...] = ()
    _limits: tuple[int, int] = (0, 0)
    """Room and budget, as ``open`` was told."""
    _done: list[tuple[Read, int | None]] = field(default_factory=list[tuple[Read, int | None]])
    """The flagged claims in order, and where in the text what was said about each begins; ``None``: nothing was."""

    def unread(self) -> Said | None:
        """The claims that no reader has seen yet, among those that stand: these may bear on how one is read."""
        shown = self._shown()
        if all(self.draft.claims[place].probability is not None for place in shown):
            return None
        claims = tuple(self.draft.claims[place].claim for place in shown)
        return Said(prompt=self.prompt, answer=self.draft.text, claims=claims)

    def take_readings(self, probabilities: Sequence[float]) -> None:
        """Put down what was read of the claims of ``unread``; one that was read before keeps its first reading.

        Raises:
            ModelError: If they are not one probability for each.
        """
        shown = self._shown()
        if len(probabilities) != len(shown) or not all(0 <= value <= 1 for value in probabilities):
            raise ModelError(
                f"a reader gives {list(probabilities)} for {len(shown)} claims",
                allowed="one finite number from 0 to 1 for each claim",
                todo="calibrate the reader's lens, and check that its scores are finite",
            )
        claims = list(self.draft.claims)
        for place, value in zip(shown, probabilities, strict=True):
            if claims[place].probability is None:
                claims[place] = replace(claims[place], probability=value)
        self.draft = replace(self.draft, claims=tuple(claims))

    def _shown(self) -> list[int]:
        """Places of the claims that a reader has to see: those that stand, and those that nobody has read."""
        claims = self.draft.claims
        return [place for place, read in enumerate(claims) if read.claim.stands or read.probability is None]

    def open(self, room: int, budget: int) -> bool:
        """Begin a turn at the first claim that is flagged.

        Args:
            room: Most tokens that the student can read.
            budget: Most tokens of its own in one answer.

        Returns:
            Whether there is one: then the model has to go on from ``sequence``, and ``go_on`` and ``hear`` be called.
        """
        self.opened = None
        self._limits = room, budget
        if len(self._done) >= self.settings.max_interventions:
            return False
        while (place := self._flagged()) is not None:
            opened = self._opened(place)
            length = len(self.prompt_ids) + len(opened.kept.ids) + len(opened.injected)
            least = 1 if opened.kind == "inject" else 0
            if length + least <= room and opened.kept.own + least <= budget:
                self.opened = opened
                return True
            self.draft = self.draft.with_claim(place, replace(self.draft.claims[place], settled=True))
        return False

    def sequence(self) -> tuple[int, ...]:
        """Tokens that the model goes on from."""
        if self.opened is None:
            return self.prompt_ids + self.draft.ids
        return self.prompt_ids + self.opened.kept.ids + self.opened.injected

    def limit(self, room: int, budget: int) -> int:
        """Tokens that the model may still add in the open turn."""
        own = 0 if self.opened is None else self.opened.kept.own
        return max(min(budget - own, room - len(self.sequence())), 0)

    def go_on(self, new: Sequence[int]) -> str:
        """Take what the model says: its first answer, or how it goes on in the open turn.

        Returns:
            What a splitter has to find the claims of, for ``hear``; empty if there is nothing to hear.
        """
        opened = self.opened
        if opened is None:
            self._new = tuple(new)
            self.first = self._text(new)
            return self.first
        self._new = self._whole(opened, new)
        if opened.kind == "inject" and not self._text(self._new).strip():
            self._new = ()
            return ""
        text = self._text(opened.kept.ids + opened.injected + self._new)
        inline = self.settings.mode == "inline"
        return text if inline else opened.kept.claims[opened.place].claim.text + text[len(opened.kept.text) :]

    def hear(self, found: Sequence[Claim]) -> None:
        """End the turn with the claims of what ``go_on`` returned.

        One in which the model says nothing whole leaves the answer as it was, and the claim is maintained.
        """
        opened, self.opened = self.opened, None
        if opened is None:
            unread = tuple(Read(claim=claim) for claim in found)
            self.draft = Draft(ids=self._new, generated=(1,) * len(self._new), text=self.first, claims=unread)
            return
        kept, flagged = opened.kept, opened.kept.claims[opened.place]
        if opened.kind == "inject" and not self._new:
            asked = replace(flagged, settled=True, action="maintain")
            self.draft = self.draft.with_claim(opened.place, asked)
            self._done.append((asked, None))
            return
        before, added = self._placed(opened, found)
        action, successor = _outcome(opened.kind, before[opened.place].stance, added)
        claims = [replace(read, claim=claim) for read, claim in zip(kept.claims, before, strict=True)]
        asked = replace(claims[opened.place], settled=True, action=action)
        claims[opened.place] = asked
        claims += [
            Read(claim=claim, corrections=flagged.corrections + 1 if claim is successor else 0) for claim in added
        ]
        ids = kept.ids + opened.injected + self._new
        generated = kept.generated + (0,) * len(opened.injected) + (1,) * len(self._new)
        draft = Draft(ids=ids, generated=generated, text=self._text(ids), claims=tuple(claims))
        alone = all(claim is successor or not claim.stands for claim in added)
        self.draft = self._with_rest(draft, opened) if alone else draft
        self._done.append((asked, len(kept.text)))

    def _with_rest(self, draft: Draft, opened: Opened) -> Draft:
        """Put back what was cut away: asking about one claim takes no other out, where there is room."""
        rest = opened.rest
        if not rest.claims:
            return draft
        ended = bool(draft.ids) and draft.ids[-1] in self.stops
        ids = (draft.ids[:-1] if ended else draft.ids) + rest.ids
        generated = (draft.generated[:-1] if ended else draft.generated) + rest.generated
        room, budget = self._limits
        if len(self.prompt_ids) + len(ids) > room or sum(generated) > budget:
            return draft
        text = self._text(ids)
        shift = len(text) - len(rest.text) - len(opened.kept.text)
        if text[len(opened.kept.text) + shift :] != rest.text:
            return draft
        said = {_plain(read.claim) for read in draft.claims if read.claim.stands}
        moved = tuple(
            replace(read, claim=replace(read.claim, start=read.claim.start + shift, end=read.claim.end + shift))
            for read in rest.claims
            if _plain(read.claim) not in said
        )
        return Draft(ids=ids, generated=generated, text=text, claims=draft.claims + moved)

    def result(self) -> Monitored:
        """The answer with all that was done about it."""
        draft = self.draft
        places = [place for _, place in self._done if place is not None]
        ends = iter([*places[1:], len(draft.text)])
        interventions: list[Intervention] = []
        for asked, place in self._done:
            assert asked.probability is not None
            assert asked.action is not None
            said = "" if place is None else draft.text[place : next(ends)]
            interventions.append(
                Intervention(claim=asked.claim.text, probability=asked.probability, action=asked.action, said=said)
            )
        return Monitored(
            prompt=self.prompt,
            prompt_ids=self.prompt_ids,
            answer=draft.text,
            first=self.first,
            interventions=tuple(interventions),
            token_ids=draft.ids,
            generated=draft.generated,
            claims=tuple(read.claim for read in draft.claims),
            probabilities=tuple(cast("float", read.probability) for read in draft.claims),
            actions=tuple(read.action for read in draft.claims),
        )

    def _flagged(self) -> int | None:
        """The first claim that is asserted, read as doubtful, and not dealt with, be it said again."""
        kept = {_plain(read.claim) for read in self.draft.claims if read.action == "maintain"}
        for place, read in enumerate(self.draft.claims):
            doubtful = read.probability is not None and read.probability < self.settings.threshold
            open_still = read.claim.stance == "asserted" and not read.settled
            if doubtful and open_still and _plain(read.claim) not in kept:
                return place
        return None

    def _placed(self, opened: Opened, found: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
        """The claims that were kept, with how the answer now stands to them, and those that came after them.

        At the end of an answer, what is said is heard as if the flagged claim had come right before it, and is taken to
        be about no other.
        """
        kept = opened.kept
        before = [read.claim for read in kept.claims]
        if self.settings.mode == "inline":
            same = {claim.start: claim for claim in found if claim.start < len(kept.text)}
            return [same.get(c.start, c) for c in before], [c for c in found if c.start >= len(kept.text)]
        flagged = before[opened.place]
        stance = next((claim.stance for claim in found if claim.start == 0), flagged.stance)
        before[opened.place] = replace(flagged, stance=stance)
        shift = len(kept.text) - len(flagged.text)
        added = [claim for claim in found if claim.start >= len(flagged.text)]
        return before, [replace(claim, start=claim.start + shift, end=claim.end + shift) for claim in added]

    def _opened(self, place: int) -> Opened:
        flagged = self.draft.claims[place]
        kind: Kind = "retract" if flagged.corrections >= self.settings.max_corrections else "inject"
        kept = self._cut(flagged.claim.end, place) if self.settings.mode == "inline" else self._without_stop()
        words = self.settings.retract if kind == "retract" else self.settings.inject
        words = words.replace(CLAIM, flagged.claim.text.rstrip(".!?"))
        if not _WHOLE.search(kept.text):
            words = _ANCHOR + words
        injected = tuple(words_after(self.tokenizer, words))
        rest = self._behind(kept, place) if self.settings.mode == "inline" else Draft()
        return Opened(kind=kind, place=place, kept=kept, injected=injected, rest=rest)

    def _behind(self, kept: Draft, place: int) -> Draft:
        """What ``_cut`` leaves out, with the token that ended the answer."""
        whole = self.draft
        return Draft(
            ids=whole.ids[len(kept.ids) :],
            generated=whole.generated[len(kept.ids) :],
            text=whole.text[len(kept.text) :],
            claims=whole.claims[place + 1 :],
        )

    def _without_stop(self) -> Draft:
        draft = self.draft
        ended = bool(draft.ids) and draft.ids[-1] in self.stops
        return replace(draft, ids=draft.ids[:-1], generated=draft.generated[:-1]) if ended else draft

    def _cut(self, end: int, place: int) -> Draft:
        """The answer up to the first end of a token at or after the end of a claim."""
        whole = self._without_stop()
        count = self._tokens_up_to(whole, end)
        return replace(
            whole,
            ids=whole.ids[:count],
            generated=whole.generated[:count],
            text=self._text(whole.ids[:count]),
            claims=whole.claims[: place + 1],
        )

    def _tokens_up_to(self, draft: Draft, end: int) -> int:
        """Fewest tokens that decode to all of the first characters, found by halving."""
        low, high = 0, len(draft.ids)
        while low < high:
            middle = (low + high) // 2
            if self._text(draft.ids[:middle]).startswith(draft.text[:end]):
                high = middle
            else:
                low = middle + 1
        return low

    def _whole(self, opened: Opened, new: Sequence[int]) -> tuple[int, ...]:
        """A continuation without the sentence that it did not finish; the model's own end counts as one."""
        if not new or new[-1] in self.stops:
            return tuple(new)
        start = Draft(ids=opened.kept.ids + opened.injected)
        before = len(self._text(start.ids))
        ids = start.ids + tuple(new)
        text = self._text(ids)
        ends = [stop for _, stop in sentences(text) if stop > before and _WHOLE.search(text[:stop])]
        if not ends:
            return ()
        return ids[len(start.ids) : self._tokens_up_to(Draft(ids=ids, text=text), ends[-1])]

    def _text(self, ids: Sequence[int]) -> str:
        said = [token for token in ids if token not in self.stops]
        return cast("str", self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _outcome(kind: Kind, stance: Stance, added: Sequence[Claim]) -> tuple[Action, Claim | None]:
    """What came of a flagged claim, and the claim that took its place."""
    if kind == "retract":
        return "retract", None
    if stance == "asserted":
        return "maintain", None
    successor = next((claim for claim in added if claim.stands), None)
    return ("retract", None) if stance == "hedged" or successor is None else ("correct", successor)


def _plain(claim: Claim) -> str:
    """A claim's words without case, spacing and closing mark."""
    return " ".join(claim.text.lower().split()).rstrip(".!?")
