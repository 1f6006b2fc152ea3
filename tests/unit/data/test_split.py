from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.data.split import rows_hash, split_rows
from trimtab.errors import DataError, UsageError
from trimtab.records.rows import ChatRow, Fit, HeldOut, Message, PreferenceRow, Rows


def chat(question: str, answer: str = "so", system: str | None = None) -> ChatRow:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    return {"messages": [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def rows_of(*items: ChatRow) -> Rows[ChatRow, Fit]:
    return Rows(items=items, split=Fit, source="x.jsonl", lines=tuple(range(3, 3 + len(items))))


@settings(deadline=None)
@given(
    questions=st.lists(st.integers(0, 12), min_size=2, max_size=60),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_no_prompt_is_on_both_sides_and_no_row_is_lost(questions: list[int], share: float, seed: int) -> None:
    assume(len(set(questions)) > 1)
    rows = rows_of(*(chat(f"Question {q}", f"answer {n}") for n, q in enumerate(questions)))
    fit, held = split_rows(rows, held_out_share=share, seed=seed)
    assert {r["messages"][0]["content"] for r in fit}.isdisjoint(r["messages"][0]["content"] for r in held)
    assert len(fit) > 0
    assert len(held) > 0
    assert sorted([*fit.lines, *held.lines]) == list(rows.lines)
    assert all(rows[line - 3] == row for side in (fit, held) for line, row in zip(side.lines, side, strict=True))
    assert list(fit.lines) == sorted(fit.lines)
    assert (fit.split, held.split) == (Fit, HeldOut)


def test_share_is_met_and_seeds_differ() -> None:
    rows = rows_of(*(chat(f"Question {n}") for n in range(200)))
    sides = [split_rows(rows, held_out_share=0.25, seed=seed)[1] for seed in (0, 0, 1)]
    assert [len(side) for side in sides] == [50, 50, 50]
    assert sides[0] == sides[1]
    assert sides[0] != sides[2]


def test_a_prompts_side_does_not_depend_on_the_order_of_the_file() -> None:
    items = [chat(f"Question {n}") for n in range(40)]
    ahead = split_rows(rows_of(*items), held_out_share=0.3, seed=2)[1]
    back = split_rows(rows_of(*reversed(items)), held_out_share=0.3, seed=2)[1]
    assert {rows_hash([row]) for row in ahead} == {rows_hash([row]) for row in back}


def test_the_same_question_in_other_dress_stays_together() -> None:
    same = [chat("How  many?"), chat("how many? "), chat("How many?", "4", system="Talk like a pirate.")]
    for seed in range(20):
        fit, held = split_rows(rows_of(*same, chat("Who?")), held_out_share=0.5, seed=seed)
        assert {len(fit), len(held)} == {3, 1}


def test_preferences_split_too() -> None:
    items: list[PreferenceRow] = [
        {
            "prompt": [{"role": "user", "content": f"Question {n}"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        }
        for n in range(10)
    ]
    fit, held = split_rows(Rows(items=tuple(items), split=Fit, source="x"), held_out_share=0.2, seed=0)
    assert (len(fit), len(held), fit.lines) == (8, 2, ())


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(DataError, match="2 rows with 1 different prompts"):
        split_rows(rows_of(chat("a"), chat("A")), held_out_share=0.5, seed=0)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(UsageError, match="held_out_share"):
            split_rows(rows_of(chat("a"), chat("b")), held_out_share=share, seed=0)


def test_hash_sees_content_and_order_only() -> None:
    one, two = chat("a"), chat("b")
    assert rows_hash([one, two]) == rows_hash(rows_of(one, two))
    assert rows_hash([one, two]) != rows_hash([two, one])
    swapped: ChatRow = {"messages": [{"content": "a", "role": "user"}, {"content": "so", "role": "assistant"}]}
    assert rows_hash([swapped]) == rows_hash([one])
    assert rows_hash([one]) != rows_hash([chat("a", "so ")])
