from __future__ import annotations

import dataclasses

import pytest

from trimtab.errors import DataError, Fault
from trimtab.records.exam import Exam, ExamRow
from trimtab.records.rows import ChatRow, Fit, HeldOut, Message, Rows


def chat(text: str) -> ChatRow:
    messages: list[Message] = [{"role": "user", "content": text}, {"role": "assistant", "content": "so"}]
    return {"messages": messages}


def test_rows_are_a_sequence_that_cannot_be_changed() -> None:
    items = (chat("a"), chat("b"), chat("c"))
    rows = Rows(items=items, split=Fit, source="x", lines=(1, 2, 4))
    assert (len(rows), rows[0], rows[-1], rows[1:], tuple(rows)) == (3, items[0], items[2], items[1:], items)
    assert items[1] in rows
    with pytest.raises(dataclasses.FrozenInstanceError):
        rows.items = ()  # type: ignore[misc]
    with pytest.raises(IndexError):
        rows[3]


def test_split_is_part_of_what_rows_are() -> None:
    assert Rows(items=(), split=Fit, source="x") != Rows(items=(), split=HeldOut, source="x")


def test_exams_grade_held_out_rows() -> None:
    row = ExamRow(id="q1", prompt=({"role": "user", "content": "1 + 1?"},), reference="2", group="sums")
    exam = Exam(
        measure="skill",
        name="sums",
        rows=Rows(items=(row,), split=HeldOut, source="x"),
        grade=lambda question, answer: answer == question.reference,
    )
    assert [exam.grade(question, answer) for question in exam.rows for answer in ("2", "3")] == [True, False]
    assert exam.temperature == 0.0


def test_a_data_error_lists_its_faults_and_keeps_all() -> None:
    faults = [Fault(file="x.jsonl", line=line, reason="bad") for line in range(1, 26)]
    error = DataError("x.jsonl: 25 rows", allowed="good rows", todo="correct them", faults=faults)
    assert error.faults == tuple(faults)
    assert "x.jsonl:20: bad" in str(error)
    assert "x.jsonl:21: bad" not in str(error)
    assert "… and 5 more" in str(error)
    assert str(error).splitlines()[-1].strip() == "to do:   correct them"
