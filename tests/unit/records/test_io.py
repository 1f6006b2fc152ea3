from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.errors import StorageError, UsageError
from trimtab.records.figures import Figure, Measured, Unmeasured
from trimtab.records.forecast import ConceptForecast, Forecast, RowPush, SitePush, TokenMark
from trimtab.records.io import append_line, from_json, load, save, to_json, write_bytes
from trimtab.records.results import Answer, ArmResult, Certificate, League
from trimtab.records.site import Site

# Under the run-time type checker, records look at a random item of their tuples while hypothesis builds them.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisWarning")

text = st.text(st.characters(codec="utf-8"), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**9)
measured = st.builds(Measured, value=floats, low=floats, high=floats, n=counts, level=st.floats(0.5, 0.99))
figures = measured | st.builds(Unmeasured, reason=text, value=st.none())
sites = st.builds(Site, st.integers(0, 99), st.sampled_from(["resid_post", "mlp_out", "attn_out"]))


@pytest.fixture(autouse=True, scope="module")
def figures_in_records() -> None:
    """Hypothesis builds records from their annotations; floats in records are finite."""
    st.register_type_strategy(float, floats)
    st.register_type_strategy(str, text)
    st.register_type_strategy(Measured, measured)
    st.register_type_strategy(Unmeasured, st.builds(Unmeasured, reason=text, value=st.none()))
    st.register_type_strategy(Site, sites)


RECORDS = [TokenMark, RowPush, SitePush, ConceptForecast, Forecast, Answer, ArmResult, League, Certificate]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_records_come_back_as_they_were(kind: type[object], data: st.DataObject) -> None:
    record = data.draw(st.from_type(kind))
    assert from_json(kind, to_json(record)) == record


@pytest.mark.parametrize("kind", [TokenMark, RowPush, Answer], ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_torn_record_is_refused_at_every_cut(kind: type[object], data: st.DataObject) -> None:
    whole = to_json(data.draw(st.from_type(kind))).rstrip()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(StorageError, match=f"x.json is not a valid {kind.__name__}") as caught:
        from_json(kind, whole[:cut], source="x.json")
    assert "run the same command again" in caught.value.todo
    assert caught.value.exit_code == 6


@given(figure=figures)
def test_a_figure_stays_measured_or_unmeasured(figure: Figure) -> None:
    pushed = SitePush(site=Site(0), push=figure, cosine=Unmeasured(reason="not asked for"))
    back = from_json(SitePush, to_json(pushed))
    assert type(back.push) is type(figure)
    assert back == pushed


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_never_written_as_figures(number: float) -> None:
    for field in ("value", "low", "high"):
        fields = {"value": 0.0, "low": 0.0, "high": 0.0} | {field: number}
        with pytest.raises(UsageError, match=r"Unmeasured\(reason"):
            Measured(**fields, n=3)
    with pytest.raises(UsageError, match="TokenMark with a number that is not finite"):
        to_json(TokenMark(text="a", push=number))


def test_figures_print_for_people() -> None:
    assert str(Measured(value=0.12345, low=0.1, high=0.2, n=9)) == "0.123 [0.1, 0.2]"
    assert str(Unmeasured(reason="one row")) == "unmeasured (one row)"


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file"):
        load(TokenMark, tmp_path / "none.json")
    save(Site(3), tmp_path / "site.json")
    assert load(Site, tmp_path / "site.json") == Site(3)
    with pytest.raises(StorageError, match="is not a valid TokenMark: text: Field required"):
        load(TokenMark, tmp_path / "site.json")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.json"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        write_bytes(path, b"new")
    assert "free space" in caught.value.todo
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path], "no temporary file stays behind"


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write in (write_bytes, append_line):
        with pytest.raises(StorageError, match="cannot write"):
            write(tmp_path / "file" / "a.json", b"x")


def test_append_adds_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a" / "lines.jsonl"
    append_line(path, b"one\n")
    append_line(path, b"two")
    assert path.read_bytes() == b"one\ntwo\n"


@given(site=sites)
def test_sites_parse_what_they_print(site: Site) -> None:
    assert Site.parse(str(site)) == site
    assert Site.parse(f" {site.layer} ") == Site(site.layer)


@pytest.mark.parametrize("wrong", ["", "a", "-1", "3.", "3.resid", "3.resid_post.x", "1.5"])
def test_other_sites_are_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="site") as caught:
        Site.parse(wrong)
    assert "resid_post, mlp_out, attn_out" in caught.value.allowed
