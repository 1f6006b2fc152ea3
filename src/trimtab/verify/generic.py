"""Exams for any model and any data: the user's held-out rows, graded by rule and through the host's lenses.

They are weaker than planted truth and say so: the skill grader asks whether an answer says what the reference says,
the trait grader asks the host's lens. Both are read on held-out rows only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trimtab.lens.bank import Bank, Concept
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.model.host import Host
from trimtab.records.exam import Exam, ExamRow, Grade, Measure
from trimtab.records.rows import ChatRow, HeldOut, Message, Rows

RECALL = 0.6
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(
    "a an and are as at be been but by can did do does for from had has have he her his i if in is it its me my no not "
    "of on or our she so that the their them there they this to was we were what when which who will with would you "
    "your".split()
)


def says_the_same(reference: str, text: str, ignore: Mapping[str, float] | None = None) -> bool:
    """Whether an answer says what a reference says, by rule.

    Every number of the reference must occur, and at least ``RECALL`` of its other content words. Words that the bag
    of words of an avoided concept counts as its marks (positive weights in ``ignore``) are not content.
    """
    said = set(_WORD.findall(text.lower()))
    wanted = {w for w in _WORD.findall(reference.lower()) if w not in _COMMON and (ignore or {}).get(w, 0.0) <= 0.0}
    numbers = {word for word in wanted if word.isdigit()}
    content = wanted - numbers
    if not wanted or not numbers <= said:
        return False
    return not content or len(content & said) >= RECALL * len(content)


def lens_grader(host: Host, concepts: Sequence[Concept], bank: Bank, *, max_length: int = 4096) -> Grade:
    """Grader that asks the host's lenses whether an answer shows any of some concepts.

    The *text* of the student is read by the frozen host; an answer shows a concept when its read-out is past the
    middle between the neutral and the eliciting mean.
    """
    site = bank.card.site

    def shows(row: ExamRow, text: str) -> bool:
        if not text.strip():
            return False
        asked = [message for message in row.prompt if message["role"] != "system"]
        answer: Message = {"role": "assistant", "content": text}
        encoded = encode_rows(host, [{"messages": [*asked, answer]}], max_length=max_length)
        read = read_rows(host, encoded, [site], gradients=False).activations[site][0]
        return any(
            float(read @ concept.directions[site]) > concept.card.neutral[str(site)] + concept.card.gaps[str(site)] / 2
            for concept in concepts
        )

    return shows


def generic_exams(
    host: Host, bank: Bank, held_out: Rows[ChatRow, HeldOut], avoided: Sequence[str], *, n: int = 120
) -> tuple[Exam, ...]:
    """Exams from the user's held-out rows and the bank's held-out questions.

    Args:
        host: The frozen host, which lends its lenses as graders.
        bank: Its bank.
        held_out: The user's held-out rows.
        avoided: Concepts that the spec avoids.
        n: Questions per exam at most.
    """
    concepts = [bank[name] for name in avoided]
    ignore: dict[str, float] = {}
    for concept in concepts:
        ignore |= {word: weight for word, weight in concept.card.word_weights.items() if weight > 0}
    own = _exam_rows(held_out.items, "task", n, held_out.source)
    other = _exam_rows(bank.card.held_out_rows, "other", n, f"bank {bank.card.name}")

    def right(row: ExamRow, text: str) -> bool:
        return says_the_same(row.reference, text, ignore)

    exams: list[Exam] = []

    def add(measure: Measure, name: str, rows: Rows[ExamRow, HeldOut], grade: Grade) -> None:
        if rows:
            exams.append(Exam(measure=measure, name=name, rows=rows, grade=grade, max_new_tokens=128))

    add("skill", "skill", own, right)
    add("capability", "capability", other, right)
    if concepts:
        add("trait_on_task", "trait_on_task", own, lens_grader(host, concepts, bank))
        add("trait_leak", "trait_leak", other, lens_grader(host, concepts, bank))
        for concept in concepts:
            if concept.card.elicit:
                asked = _asking(other, concept.card.elicit[0])
                add("obedience", f"obedience-{concept.name}", asked, lens_grader(host, [concept], bank))
    return tuple(exams)


def _exam_rows(rows: Sequence[ChatRow], group: str, n: int, source: str) -> Rows[ExamRow, HeldOut]:
    items = tuple(
        ExamRow(
            id=f"{group}-{i:04d}",
            prompt=tuple(row["messages"][:-1]),
            reference=row["messages"][-1]["content"],
            group=group,
        )
        for i, row in enumerate(rows[:n])
    )
    return Rows(items=items, split=HeldOut, source=source)


def _asking(rows: Rows[ExamRow, HeldOut], system: str) -> Rows[ExamRow, HeldOut]:
    turn: Message = {"role": "system", "content": system}
    items = tuple(
        ExamRow(
            id=row.id,
            prompt=(turn, *(message for message in row.prompt if message["role"] != "system")),
            reference="",
            group=row.group,
        )
        for row in rows
    )
    return Rows(items=items, split=HeldOut, source=rows.source)
