"""Verdicts on disk: nothing is paid for twice, whatever ended the run before."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.errors import StorageError, UsageError
from trimtab.records.claims import Asked, Claim, Grade
from trimtab.reward.grades import GRADES, CachedGrader
from trimtab.roles import Grader


def asked(text: str = "mira was born in kelm.", *, before: str = "", after: str = "", question: str = "who?") -> Asked:
    claim = Claim(text=text, start=len(before), end=len(before) + len(text))
    return Asked(prompt=({"role": "user", "content": question},), answer=before + text + after, claim=claim)


def many(n: int) -> list[Asked]:
    return [asked(f"claim number {index}.") for index in range(n)]


class Counting:
    """Right where the claim says kelm; a cent a verdict. Fails in its ``fail_at``-th call, counted from 1."""

    def __init__(self, name: str = "counting", *, fail_at: int = 0, settled: bool = True) -> None:
        self.name = name
        self.seen: list[Asked] = []
        self.batches: list[int] = []
        self._fail_at, self._settled = fail_at, settled

    def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
        if len(self.batches) + 1 == self._fail_at:
            raise ConnectionError("the line is down")
        self.batches.append(len(asked))
        self.seen += asked
        return tuple(
            Grade(
                truth="right" if "kelm" in one.claim.text else "wrong" if self._settled else "unknown",
                reason=f"looked it up: {one.claim.text}",
                cost=0.01,
                settled=self._settled,
            )
            for one in asked
        )


def lines(folder: Path) -> list[str]:
    return (folder / GRADES).read_text().splitlines()


def test_what_was_graded_is_not_graded_again_in_this_run_or_the_next(tmp_path: Path) -> None:
    inner = Counting()
    grader: Grader = CachedGrader(inner, tmp_path, batch=4)
    first = grader(many(10))
    assert inner.batches == [4, 4, 2]
    again, other = Counting(), CachedGrader(Counting(), tmp_path)
    later = CachedGrader(again, tmp_path)
    assert grader(many(10)) == first == later(many(10)) == other(many(10))
    assert (again.batches, inner.batches) == ([], [4, 4, 2])
    assert (later.hits, later.misses) == (10, 0)
    assert later.spent == pytest.approx(0.10)
    assert later(many(12))[:10] == first
    assert (later.hits, later.misses, again.batches) == (20, 2, [2])
    assert later.spent == pytest.approx(0.12)
    assert len(lines(tmp_path)) == 12


def test_a_grader_that_fails_midway_loses_nothing_and_is_not_paid_twice(tmp_path: Path) -> None:
    failing = Counting(fail_at=3)
    grader = CachedGrader(failing, tmp_path, batch=4)
    with pytest.raises(ConnectionError, match="the line is down"):
        grader(many(20))
    assert failing.batches == [4, 4]
    assert len(lines(tmp_path)) == 8
    assert grader.misses == 8
    working = Counting()
    resumed = CachedGrader(working, tmp_path, batch=4)
    grades = resumed(many(20))
    assert working.batches == [4, 4, 4]
    paid = [one.claim.text for one in (*failing.seen, *working.seen)]
    assert len(paid) == len(set(paid)) == 20
    assert [grade.reason for grade in grades] == [f"looked it up: claim number {index}." for index in range(20)]
    assert resumed.spent == pytest.approx(0.20)


def test_a_batch_is_on_disk_before_the_next_is_asked_for(tmp_path: Path) -> None:
    class Looking(Counting):
        def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
            assert (len(lines(tmp_path)) if self.batches else 0) == sum(self.batches)
            return super().__call__(asked)

    CachedGrader(Looking(), tmp_path, batch=3)(many(9))
    assert len(lines(tmp_path)) == 9


@pytest.mark.parametrize("cut", [1, 2, 30, 150])
def test_a_torn_last_line_is_dropped_and_redone(tmp_path: Path, cut: int) -> None:
    CachedGrader(Counting(), tmp_path)(many(5))
    whole = (tmp_path / GRADES).read_bytes()
    (tmp_path / GRADES).write_bytes(whole[:-cut])
    inner = Counting()
    assert len(CachedGrader(inner, tmp_path)(many(5))) == 5
    assert [one.claim.text for one in inner.seen] == ["claim number 4."]
    assert (tmp_path / GRADES).read_bytes() == whole


def test_a_torn_line_of_this_very_process_is_dropped_too(tmp_path: Path) -> None:
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    grader(many(3))
    with (tmp_path / GRADES).open("ab") as file:
        file.write(b'{"key": "half')
    grader(many(4))
    assert inner.batches == [3, 1]
    assert [json.loads(line)["claim"] for line in lines(tmp_path)] == [f"claim number {n}." for n in range(4)]


@pytest.mark.parametrize(
    "damaged",
    [
        "not json",
        "[]",
        '{"key": "k", "grader": "g", "claim": "c"}',
        '{"key": "k", "grader": "g", "claim": "c", "grade": {"truth": "maybe", "reason": "r"}}',
        '{"key": "k", "grader": "g", "claim": "c", "grade": {"truth": "right", "reason": "r", "cost": "much"}}',
    ],
)
def test_a_line_of_the_wrong_shape_is_refused_with_file_and_line(tmp_path: Path, damaged: str) -> None:
    grader = CachedGrader(Counting(), tmp_path)
    grader(many(3))
    good = lines(tmp_path)
    (tmp_path / GRADES).write_text("\n".join([good[0], damaged, good[2]]) + "\n")
    with pytest.raises(StorageError, match=rf"{GRADES}:2 is not a grade"):
        CachedGrader(Counting(), tmp_path)(many(1))
    (tmp_path / GRADES).write_text("\n".join([*good, damaged]) + "\n")
    with pytest.raises(StorageError, match=rf"{GRADES}:4 is not a grade"):
        grader(many(1))


def test_another_process_is_kept_out_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    CachedGrader(Counting(), tmp_path)(many(1))
    script = f"""
from filelock import FileLock
lock = FileLock({str(tmp_path / ".grades.lock")!r})
lock.acquire()
print("held", flush=True)
input()
"""
    inner = Counting()
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(StorageError, match="being graded in"):
            CachedGrader(inner, tmp_path)(many(2))
        other.kill()
    assert inner.batches == []
    CachedGrader(inner, tmp_path)(many(2))
    assert inner.batches == [1]


def test_the_folder_is_held_while_the_grader_works(tmp_path: Path) -> None:
    class Nested(Counting):
        def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
            with pytest.raises(StorageError, match="being graded in"):
                CachedGrader(Counting(), tmp_path)(many(1))
            return super().__call__(asked)

    inner = Nested()
    CachedGrader(inner, tmp_path)(many(2))
    assert inner.batches == [2]


def test_what_comes_after_a_claim_is_neither_shown_nor_part_of_the_key(tmp_path: Path) -> None:
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    plain, later = asked(after=" more."), asked(after=" wait, that is wrong.")
    later = replace(later, claim=replace(later.claim, stance="withdrawn"))
    assert grader([plain])[0] == grader([later])[0]
    (seen,) = inner.seen
    assert seen.answer == seen.claim.text == "mira was born in kelm."
    assert seen.claim.stance == "asserted"


@pytest.mark.parametrize(
    "other",
    [
        asked("mira was born in tolm."),
        asked(before="she. "),
        asked(question="where?"),
        replace(asked(), claim=Claim(text="mira was born in kelm.", start=5, end=22)),
        replace(asked(), prompt=({"role": "system", "content": "who?"},)),
    ],
)
def test_all_else_is_part_of_the_key(tmp_path: Path, other: Asked) -> None:
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    grader([asked()])
    grader([other])
    assert inner.batches == [1, 1]
    grader([asked(), other])
    assert inner.batches == [1, 1]


def test_graders_of_other_names_share_a_folder_but_no_verdicts(tmp_path: Path) -> None:
    first, second = Counting("first"), Counting("second")
    one, two = CachedGrader(first, tmp_path), CachedGrader(second, tmp_path)
    one(many(3))
    two(many(2))
    assert (first.batches, second.batches) == ([3], [2])
    assert (one.spent, two.spent) == (pytest.approx(0.03), pytest.approx(0.02))
    assert (one.name, two.name) == ("first", "second")


def test_equal_claims_of_one_call_are_graded_once(tmp_path: Path) -> None:
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    first, second, third = grader([asked(), asked("mira was born in tolm."), asked(after=" so it is.")])
    assert first == third != second
    assert inner.batches == [2]
    assert (grader.hits, grader.misses) == (1, 2)


def test_a_grade_that_is_not_settled_is_returned_paid_and_asked_for_again(tmp_path: Path) -> None:
    failing = CachedGrader(Counting(settled=False), tmp_path)
    (grade,) = failing([asked("mira was born in tolm.")])
    assert (grade.truth, grade.settled) == ("unknown", False)
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    (grade,) = grader([asked("mira was born in tolm.")])
    assert (grade.truth, inner.batches) == ("wrong", [1])
    assert grader.spent == pytest.approx(0.02)
    grader([asked("mira was born in tolm.")])
    assert inner.batches == [1]


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1.0])
def test_a_cost_that_is_no_cost_is_refused_before_it_is_written(tmp_path: Path, cost: float) -> None:
    class Odd(Counting):
        def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
            return tuple(replace(grade, cost=cost) for grade in super().__call__(asked))

    with pytest.raises(UsageError, match="finite cost"):
        CachedGrader(Odd(), tmp_path)(many(1))
    assert not (tmp_path / GRADES).exists()


def test_a_grader_that_drops_a_claim_is_refused(tmp_path: Path) -> None:
    class Short(Counting):
        def __call__(self, asked: Sequence[Asked]) -> tuple[Grade, ...]:
            return super().__call__(asked)[1:]

    with pytest.raises(UsageError, match="2 grades for 3 claims"):
        CachedGrader(Short(), tmp_path)(many(3))
    with pytest.raises(UsageError, match="batch=0"):
        CachedGrader(Counting(), tmp_path, batch=0)


def test_progress_counts_claims_and_what_was_on_disk(tmp_path: Path) -> None:
    CachedGrader(Counting(), tmp_path)(many(3))
    told: list[tuple[int, int]] = []
    CachedGrader(Counting(), tmp_path, batch=4, progress=lambda done, total: told.append((done, total)))(many(10))
    assert told == [(3, 10), (7, 10), (10, 10)]


def test_text_that_is_no_text_does_not_lose_a_batch(tmp_path: Path) -> None:
    inner = Counting()
    grader = CachedGrader(inner, tmp_path)
    broken = asked("mira \ud83d was born in kelm.")
    grader([broken])
    assert CachedGrader(inner, tmp_path)([broken])[0].truth == "right"
    assert inner.batches == [1]
