"""Questions from files: what a row may hold, what is refused, and that nothing is asked about on two sides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.questions import SHARES, divide_questions, read_questions, same_thing
from trimtab.errors import DataError
from trimtab.records.claims import ClaimQuestion


def written(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def about(thing: str, place: int = 0) -> ClaimQuestion:
    return ClaimQuestion(id=f"{thing}-{place}", prompt=({"role": "user", "content": "?"},), about=thing)


def test_what_is_left_out_has_a_meaning(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Who was Ada?"},
        {
            "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who was Bell?"}],
            "about": "Bell",
            "group": "people",
            "known": True,
            "id": "b",
            "source": "a column of the user's own",
        },
    ]
    first, second = read_questions(written(tmp_path, rows))
    assert (first.id, first.about, first.group, first.known) == ("question-00001", "Who was Ada?", "all", False)
    assert first.prompt == ({"role": "user", "content": "Who was Ada?"},)
    assert (second.id, second.about, second.group, second.known) == ("b", "Bell", "people", True)
    assert [turn["role"] for turn in second.prompt] == ["system", "user"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a?", "known": "yes"}, "known must be true or false, not 'yes'"),
        ({"prompt": "a?", "about": 3}, "about must be text, not 3"),
        ({"prompt": "a?", "group": " "}, "group must be text"),
        ({"prompt": "a?", "abuot": "a"}, "column 'abuot': if 'about' is meant"),
        ({"prompt": "a?", "Known": True}, "column 'Known': if 'known' is meant"),
        ({"about": "a"}, "prompt"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, row: Mapping[str, object], reason: str) -> None:
    path = written(tmp_path, [{"prompt": "fine?"}, row])
    with pytest.raises(DataError) as refused:
        read_questions(path)
    (fault,) = refused.value.faults
    assert (fault.file, fault.line) == (str(path), 2)
    assert reason in fault.reason


def test_ids_that_stand_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="stand twice: a"):
        read_questions(written(tmp_path, [{"prompt": "a?", "id": "a"}, {"prompt": "b?", "id": "a"}]))


@given(st.lists(st.sampled_from([f"thing {place}" for place in range(80)]), min_size=80, max_size=120))
def test_no_thing_is_asked_about_on_two_sides(things: list[str]) -> None:
    every = [about(f"thing {place}") for place in range(80)]
    asked = [*every, *(about(thing.upper().replace(" ", "  "), place) for place, thing in enumerate(things, 1))]
    sides = divide_questions(asked)
    assert sorted(question.id for side in sides.values() for question in side) == sorted(one.id for one in asked)
    found = [{same_thing(question.about) for question in side} for side in sides.values()]
    for place, side in enumerate(found):
        for other in found[:place]:
            assert not side & other


def test_shares_are_kept_and_an_empty_side_is_refused() -> None:
    sides = divide_questions([about(f"thing {place}") for place in range(4000)])
    for part, share in SHARES.items():
        assert len(sides[part]) == pytest.approx(4000 * share, rel=0.1)
    with pytest.raises(DataError, match="leave no question for"):
        divide_questions([about("one thing", place) for place in range(50)])
