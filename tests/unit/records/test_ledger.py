from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.errors import StorageError
from trimtab.records.ledger import Ledger, Ruling, append_rulings, read_ledger

text = st.text(st.characters(codec="utf-8"), max_size=10)
rulings = st.builds(
    Ruling,
    concept=st.sampled_from(["pirate", "sums", "flattery"]) | text,
    verdict=st.sampled_from(["learn", "avoid", "ignore", "protect", "needs-human"]),
    reason=text,
    by=st.sampled_from(["rule", "similarity", "protected", "default", "human"]),
    clause=st.none() | text,
    margin=st.none() | st.floats(-2, 2),
    made_at=text,
)


def ruling(concept: str, verdict: str, reason: str = "because") -> Ruling:
    return Ruling(concept=concept, verdict=verdict, reason=reason, by="rule")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(batches=st.lists(st.lists(rulings, max_size=4), max_size=4))
def test_a_ledger_only_grows_and_reads_back(
    batches: list[list[Ruling]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    path.touch()
    written: list[Ruling] = []
    for batch in batches:
        before = path.read_bytes()
        append_rulings(path, batch)
        written += batch
        assert path.read_bytes().startswith(before)
        read = read_ledger(path).rulings
        assert all(r.made_at for r in read)
        assert [replace(r, made_at=w.made_at) for r, w in zip(read, written, strict=True)] == written


def test_the_last_ruling_on_a_concept_holds() -> None:
    ledger = Ledger(rulings=(ruling("pirate", "ignore"), ruling("sums", "learn"), ruling("pirate", "avoid", "asked")))
    assert ledger.current()["pirate"].reason == "asked"
    assert [r.concept for r in ledger.with_verdict("avoid")] == ["pirate"]
    assert ledger.with_verdict("ignore") == ()
    assert len(ledger.rulings) == 3


def test_line_separators_inside_a_reason_do_not_tear_it(tmp_path: Path) -> None:
    kept = ruling("pirate", "avoid", "one\u2028two\x85three\nfour")
    append_rulings(tmp_path / "ledger.jsonl", [kept])
    (read,) = read_ledger(tmp_path / "ledger.jsonl").rulings
    assert read.made_at
    assert replace(read, made_at="") == kept


def test_a_line_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"concept": "\xff"}\n')
    with pytest.raises(StorageError, match="1 is not a valid Ruling"):
        read_ledger(path)


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_line_is_refused_with_its_number(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_rulings(path, [ruling("pirate", "avoid"), ruling("sums", "learn")])
    path.write_bytes(path.read_bytes()[:-cut])
    if cut == 1:  # only the line end is missing: the ruling is whole
        assert len(read_ledger(path).rulings) == 2
        return
    with pytest.raises(StorageError, match=r"ledger\.jsonl:2 is not a valid Ruling"):
        read_ledger(path)


def test_a_verdict_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    append_rulings(path, [ruling("pirate", "avoid")])
    path.write_text(path.read_text().replace('"avoid"', '"forbid"'))
    with pytest.raises(StorageError, match="1 is not a valid Ruling: verdict"):
        read_ledger(path)


def test_a_missing_ledger_names_the_step_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read") as caught:
        read_ledger(tmp_path / "ledger.jsonl")
    assert "trimtab plan" in caught.value.todo
