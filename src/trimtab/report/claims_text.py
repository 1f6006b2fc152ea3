"""An answer with its claims marked: by ground truth, by what the probe read, by what was done about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from markupsafe import Markup, escape

from trimtab.records.claims import Action, JudgedAnswer, JudgedClaim, Stance, Truth
from trimtab.report.svg import tag
from trimtab.report.words import clean, excerpt, plural

SIGNS: Final[Mapping[Truth, str]] = MappingProxyType({"right": "✓", "wrong": "✗", "unknown": "?"})
DONE: Final[Mapping[Action, str]] = MappingProxyType(
    {"maintain": "maintained", "correct": "corrected", "retract": "retracted"}
)
LEVELS: Final = 4
_LONGEST: Final = 4000
_LINES: Final = 100
_TRUTHS: Final[Mapping[Truth, str]] = MappingProxyType(
    {"right": "right", "wrong": "wrong", "unknown": "the grader cannot tell"}
)
_STANCES: Final[Mapping[Stance, str]] = MappingProxyType(
    {"asserted": "said as a fact", "hedged": "hedged", "withdrawn": "withdrawn"}
)


@dataclass(frozen=True, kw_only=True)
class Marked:
    """An answer as the page shows it.

    Attributes:
        html: Its text with its claims marked.
        note: What is not shown, in words; empty where all is.
    """

    html: Markup
    note: str


def marked(answer: JudgedAnswer) -> Marked:
    """Mark the claims of an answer.

    Claims that lie outside the text or inside an earlier claim cannot be marked; they are counted in the note.
    """
    cut = excerpt(answer.text, _LONGEST, _LINES)
    pieces = list(_pieces(answer, len(cut.text)))
    left = len(answer.claims) - sum(claim is not None for _, claim in pieces)
    notes = [cut.note] if cut.note else []
    if left:
        notes.append(f"{plural(left, 'claim')} not marked")
    html = Markup("").join(
        escape(clean(text)) if claim is None else _mark(text, claim) for text, claim in pieces if text or claim
    )
    return Marked(html=html, note="; ".join(notes))


def _pieces(answer: JudgedAnswer, length: int) -> Iterator[tuple[str, JudgedClaim | None]]:
    """The text up to ``length`` in pieces: claims, and what lies between them."""
    at = 0
    for claim in sorted(answer.claims, key=lambda claim: (claim.start, claim.end)):
        end = min(claim.end, length)
        if at <= claim.start < end:
            yield answer.text[at : claim.start], None
            yield answer.text[claim.start : end], claim
            at = end
    yield answer.text[at:length], None


def _mark(text: str, claim: JudgedClaim) -> Markup:
    told = "; ".join(
        [
            _TRUTHS[claim.truth],
            _STANCES[claim.stance],
            "not read by the probe" if claim.probability is None else f"probe: {percent(claim.probability)} right",
            *([] if claim.action is None else [f"flagged and {DONE[claim.action]}"]),
        ]
    )
    level = "unread" if claim.probability is None else f"u{level_of(claim.probability)}"
    read = "" if claim.probability is None else percent(claim.probability)
    badges = [
        tag("span", word, class_=f"badge {class_}")
        for word, class_ in (
            ("" if claim.stance == "asserted" else claim.stance, "stance"),
            ("" if claim.action is None else DONE[claim.action], f"did-{claim.action}"),
        )
        if word
    ]
    sign = tag("sup", SIGNS[claim.truth], role="img", aria_label=told, data_read=read)
    said = tag("span", text, class_="said")
    return tag(
        "mark", said, sign, *badges, class_=f"claim {claim.truth} {level} {claim.stance}", tabindex=0, title=told
    )


def level_of(probability: float) -> int:
    """Strength of the underline, 1 to ``LEVELS``, in equal steps of probability; the second half begins at 0.5."""
    return 1 + min(LEVELS - 1, max(0, int(LEVELS * probability)))


def percent(probability: float) -> str:
    """Whole per cent, and never 0 or 100 for what is neither."""
    text = f"{100 * probability:.0f}%"
    if text == "0%" and probability > 0:
        return "< 1%"
    return "> 99%" if text == "100%" and probability < 1 else text
