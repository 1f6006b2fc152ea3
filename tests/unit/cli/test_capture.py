from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from trimtab.cli import capture as capture_command
from trimtab.cli.capture_actions import parse_sites
from trimtab.data.read import read_chat, write_jsonl
from trimtab.errors import DataError, StorageError, UsageError
from trimtab.lab.sample import sample_rows
from trimtab.lens.store.read import Store
from trimtab.model.host import Host
from trimtab.records.site import Site

app = typer.Typer(rich_markup_mode=None)
app.command()(capture_command.capture)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(sample_rows(40, 0, trait="pirate"), path)
    return path


def run(data: Path, out: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["--data", str(data), "--out", str(out), *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return " ".join(result.output.split())


def test_capture_says_what_it_did_and_resumes(data: Path, tmp_path: Path) -> None:
    options = ("--sites", "1,3.mlp_out", "--role", "assistant", "--shard-tokens", "400")
    printed = run(data, tmp_path / "acts", *options)
    store = Store.open(tmp_path / "acts", Host.load("lab", self_check=False))
    assert store.sites == (Site(1), Site(3, "mlp_out"))
    assert len(store) == 40
    shards = len(store.card.shards)
    assert shards > 2
    assert f"{store.n_tokens:,} tokens at 2 sites" in printed
    assert f"in {shards} shards" in printed
    assert "tokens/s kept" in printed
    assert "padding" in printed
    assert store.card.identity.max_length == 2048
    again = run(data, tmp_path / "acts", *options)
    assert f"kept {shards} shards that were whole already; did 0 damaged ones again" in again
    with pytest.raises(StorageError, match="dtype: bfloat16 there, float32 now"):
        run(data, tmp_path / "acts", *options, "--dtype", "float32")


def test_tokens_are_selected_by_regex_and_last(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "acts", "--regex", r"\d+", "--last", "--skip-empty", "--sites", "0")
    store = Store.open(tmp_path / "acts")
    said = [row["messages"][-1]["content"] for row in read_chat(data)]
    assert store.sources.tolist() == [index for index, text in enumerate(said) if any(map(str.isdecimal, text))]
    assert store.n_tokens == len(store) < 40
    assert store.card.identity.selection["regex"] == r"\d+"
    with pytest.raises(DataError, match=r"rows\.jsonl:\d+: no token is selected"):
        run(data, tmp_path / "other", "--regex", r"\d+")


def test_sites_in_words() -> None:
    assert parse_sites("all", 2) == (Site(0), Site(1))
    assert parse_sites("0, 2.attn_out,0", 4) == (Site(0), Site(2, "attn_out"))
    with pytest.raises(UsageError, match="site 'middle'"):
        parse_sites("0,middle", 4)


def test_a_process_of_several_does_its_share(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    printed = run(data, tmp_path / "acts", "--shard-tokens", "400", "--sites", "0")
    assert "process 1 of 2" in printed
    assert "other processes still write to" in printed
    assert "load the host" not in printed
    monkeypatch.setenv("RANK", "0")
    assert f"wrote {tmp_path / 'acts'}".replace(" ", "") in run(
        data, tmp_path / "acts", "--shard-tokens", "400", "--sites", "0"
    ).replace(" ", "")
    assert Store.open(tmp_path / "acts").n_tokens
