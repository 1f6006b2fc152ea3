from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from trimtab.decide.clauses import split_clauses
from trimtab.decide.similarity import MARGIN, SILENCE, Embedder, opposed, read_spec_for
from unit.decide.forecasts import concept
from unit.decide.grades import TABLE, Cached, graded


@pytest.fixture(scope="module")
def embed() -> Cached:
    return Cached()


def test_the_table_is_large_enough() -> None:
    assert len(TABLE["fit"]) + len(TABLE["held-out"]) + len(TABLE["fresh"]) >= 60


@pytest.mark.parametrize("part", ["fit", "held-out", "fresh"])
def test_rulings_against_the_table(part: str, embed: Cached) -> None:
    counts, wrong = graded(part, embed)
    report = "\n".join(wrong)
    assert counts["false"] / counts.total() < 0.05, report
    assert counts["human"] / counts.total() <= 0.10, report
    assert counts["right"] / counts.total() >= 0.90, report


def test_the_grading_can_fail(embed: Cached) -> None:
    def blind(texts: Sequence[str], /) -> NDArray[np.float32]:
        return np.eye(len(texts), 400, dtype=np.float32)

    counts, _ = graded("fit", blind)
    assert counts["right"] / counts.total() < 0.90


def axis(texts: Sequence[str], /) -> NDArray[np.float32]:
    """One axis per word that the text holds of a small list; unit vectors."""
    words = ("pirate", "sum", "fact")
    rows = np.array([[float(word in text) for word in words] + [1e-3] for text in texts], dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_readings_come_best_first_with_silence_among_them() -> None:
    assert isinstance(axis, Embedder)
    found = read_spec_for(
        split_clauses("Learn the sums. Avoid pirate speech."), [concept("arr", "talks like a pirate")], axis
    )["arr"]
    assert [reading.stance for reading in found] == ["avoid", None, "learn"]
    assert found[0].score == pytest.approx(1.0, abs=1e-3)
    assert found[1].score == SILENCE


def test_a_general_clause_speaks_where_no_clause_names_the_concept() -> None:
    clauses = split_clauses("Do not pick up the way it talks. Learn the pirate speech.")
    found = read_spec_for(clauses, [concept("arr", "a pirate"), concept("odd", "something else")], axis)
    assert found["arr"][0].stance == "learn"
    assert not found["arr"][0].general
    assert found["odd"][0].stance == "avoid"
    assert found["odd"][0].general


def test_the_narrower_general_clause_holds() -> None:
    clauses = split_clauses("Learn everything. Avoid its style.")
    found = read_spec_for(clauses, [concept("a", "x"), concept("b", "y", kind="skill")], axis)
    assert found["a"][0].stance == "avoid"
    assert found["b"][0].stance == "learn"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("long answers", "answers in as few words as possible", True),
        ("disagree with the user", "agrees with the user", True),
        ("sound certain", "says it is not sure", True),
        ("being unsure", "says it is not sure", False),
        ("short and long answers", "long answers", False),
        ("the sums", "adds numbers", False),
    ],
)
def test_opposites(first: str, second: str, expected: bool) -> None:
    assert opposed(first, second) is expected
    assert opposed(second, first) is expected


def test_the_margin_is_smaller_than_the_floor() -> None:
    assert 0 < MARGIN < SILENCE < 1
