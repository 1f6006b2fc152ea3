"""``trimtab sae clusters`` on a small autoencoder of the lab: finds a voice without a label, and hands it to a bank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from trimtab.cli import bank as bank_command
from trimtab.cli import sae as sae_command
from trimtab.data.read import read_chat, write_jsonl
from trimtab.data.select import Selection, select_rows
from trimtab.errors import DataError, StorageError, UsageError
from trimtab.lab.sample import sample_rows
from trimtab.lab.traits import TRAITS
from trimtab.lens.bank import Bank
from trimtab.lens.load import load_lens
from trimtab.lens.sae.cluster_lens import ClusterLens
from trimtab.lens.sae.format import save_sae
from trimtab.lens.sae.source import tokens_of
from trimtab.lens.sae.train import train_sae
from trimtab.lens.spans import Spans, read_spans
from trimtab.model.host import Host
from trimtab.records.io import load
from trimtab.records.sae import ClustersReport, SaeSettings
from trimtab.records.site import Site
from trimtab.stats.ranks import auroc

SITE = Site(2)


def voices(path: Path, count: int, seed: int) -> Path:
    """Rows of which every other one is a pirate's."""
    plain, pirate = sample_rows(count, seed), sample_rows(count, seed + 1, trait="pirate")
    write_jsonl([(pirate if place % 2 else plain)[place] for place in range(count)], path)
    return path


def read(host: Host, path: Path) -> tuple[Spans, np.ndarray]:
    """Activations of the answers, and which of them are a pirate's."""
    rows = read_chat(path)
    spans = read_spans(host, select_rows(host.tokenizer, rows, Selection(), max_length=512), [SITE])[SITE]
    return spans, np.array([TRAITS["pirate"].detect(row["messages"][-1]["content"]) for row in rows])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Host, Path, Path]:
    """The host, rows, and the folder of an autoencoder of them."""
    folder = tmp_path_factory.mktemp("clusters")
    host = Host.load("lab", self_check=False)
    data = voices(folder / "rows.jsonl", 500, 0)
    settings = SaeSettings(features=256, k=12, tokens=60_000, batch=512, learning_rate=3e-3)
    sae = train_sae(tokens_of(read(host, data)[0], host, SITE, data="rows"), settings)
    save_sae(sae, folder / "sae")
    return host, data, folder / "sae"


def run(sae: Path, data: Path, out: Path, *options: str) -> str:
    words = ["clusters", str(sae), "--data", str(data), "--out", str(out), *options]
    result = CliRunner().invoke(sae_command.app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_voice_is_found_and_goes_into_a_bank(world: tuple[Host, Path, Path], tmp_path: Path) -> None:
    host, data, sae = world
    out = tmp_path / "voices"
    printed = run(sae, data, out)
    report = load(ClustersReport, out / "clusters.json")
    assert f"{len(report.clusters)} clusters of features on 500 rows" in printed
    assert report.settings["smallest"] == 4
    spans, pirate = read(host, voices(tmp_path / "other.jsonl", 300, 50))
    lenses = [load_lens(out / view.name) for view in report.clusters]
    scores = [lens.read(spans).numpy() for lens in lenses]
    worth = [auroc(score[pirate], score[~pirate]) for score in scores]
    best = int(np.argmax(worth))
    found = report.clusters[best]
    assert worth[best] > 0.9
    assert {"arr", "matey", "ye", "savvy", "timbers", "yarr", "seas"} & set(found.words)
    assert found.name in printed
    lines = data.read_text(encoding="utf-8").splitlines()
    for row in found.rows:
        said = json.loads(lines[row.line - 1])["messages"][-1]["content"]
        assert TRAITS["pirate"].detect(said)
        assert row.text.split("<<")[1].split(">>")[0].strip() in said
    lens = lenses[best]
    assert isinstance(lens, ClusterLens)
    assert lens.features == found.features
    assert (lens.card.concept, lens.card.site) == (f"{found.name} of voices", SITE)
    bank = tmp_path / "bank"
    Bank.load("lab").save(bank)
    words = ["add", str(out / found.name), "--bank", str(bank)]
    result = CliRunner().invoke(bank_command.app, words)
    assert result.exit_code == 0, result.output
    (again,) = Bank.load(bank).find(lens.card.concept).lenses.values()
    assert torch.equal(again.read(spans), lens.read(spans))


def test_what_is_in_the_folder_stays(world: tuple[Host, Path, Path], tmp_path: Path) -> None:
    _, data, sae = world
    assert "No features fire together beyond chance" in run(sae, data, tmp_path / "few", "--smallest", "200")
    before = (tmp_path / "few" / "clusters.json").read_bytes()
    assert load(ClustersReport, tmp_path / "few" / "clusters.json").clusters == ()
    with pytest.raises(StorageError, match="holds clusters already"):
        run(sae, data, tmp_path / "few")
    assert (tmp_path / "few" / "clusters.json").read_bytes() == before


def test_what_cannot_be_done_is_said_before_anything_is_written(world: tuple[Host, Path, Path], tmp_path: Path) -> None:
    _, data, sae = world
    with pytest.raises(UsageError, match=r"name 'a\.b'"):
        run(sae, data, tmp_path / "a.b")
    with pytest.raises(UsageError, match=r"^edges 2\n"):
        run(sae, data, tmp_path / "out", "--edges", "2")
    with pytest.raises(DataError, match="of 256 features fire on 10 rows"):
        run(sae, data, tmp_path / "out", "--tokens", "60")
    assert list(tmp_path.iterdir()) == []


def test_the_rows_that_are_left_out_are_counted(world: tuple[Host, Path, Path], tmp_path: Path) -> None:
    _, data, sae = world
    printed = run(sae, data, tmp_path / "part", "--tokens", "2500")
    kept = load(ClustersReport, tmp_path / "part" / "clusters.json").rows
    assert kept < 500
    assert f"the first {kept} of 500 rows: more pass --tokens 2500" in printed
