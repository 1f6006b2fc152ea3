"""``trimtab sae train`` and ``sae eval`` from a capture to the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from trimtab.cli import capture as capture_command
from trimtab.cli import sae as sae_command
from trimtab.data.read import write_jsonl
from trimtab.errors import UsageError
from trimtab.lab.sample import sample_rows
from trimtab.lens.sae.format import load_sae
from trimtab.records.io import load
from trimtab.records.sae import SaeReport

capture_app = typer.Typer(rich_markup_mode=None)
capture_app.command()(capture_command.capture)


def run(app: typer.Typer, *words: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, other rows, a capture of the first, and an autoencoder of that."""
    folder = tmp_path_factory.mktemp("sae")
    write_jsonl(sample_rows(80, 0, trait="pirate"), folder / "rows.jsonl")
    write_jsonl(sample_rows(40, 9, trait="pirate"), folder / "others.jsonl")
    run(capture_app, "--data", folder / "rows.jsonl", "--role", "any", "--sites", "2", "--out", folder / "store")
    printed = run(sae_command.app, "train", "--store", folder / "store", "--site", "2", *TRAIN, "--out", folder / "sae")
    assert "128 features at 2.resid_post of lab: 12,800 tokens in 50 steps" in printed
    return folder


TRAIN = ("--features", "128", "--k", "8", "--tokens", "12800", "--batch", "256", "--learning-rate", "0.003")
TRAINED_ON = "These are the rows that it was trained on"


def test_training_again_changes_nothing(world: Path) -> None:
    before = load_sae(world / "sae")
    run(sae_command.app, "train", "--store", world / "store", "--site", "2", *TRAIN, "--out", world / "sae")
    assert torch.equal(load_sae(world / "sae").encoder, before.encoder)
    with pytest.raises(UsageError, match="k is 300, but there are only 128"):
        run(
            sae_command.app,
            "train",
            "--store",
            world / "store",
            "--site",
            "2",
            *TRAIN,
            "--k",
            "300",
            "--out",
            world / "x",
        )


def test_figures_of_other_rows_and_a_remark_on_rows_it_was_trained_on(world: Path, tmp_path: Path) -> None:
    printed = run(sae_command.app, "eval", world / "sae", "--data", world / "others.jsonl", "--json", tmp_path / "j")
    report = load(SaeReport, tmp_path / "j")
    assert report.fidelity.fvu.value is not None
    assert 0 < report.fidelity.fvu.value < 0.6
    assert f"{report.fidelity.fvu.value:.4g}" in printed
    assert report.splice is not None
    assert TRAINED_ON not in printed
    same = ("--data", world / "rows.jsonl", "--role", "user"), ("--store", world / "store")
    for words in same:
        assert TRAINED_ON in run(sae_command.app, "eval", world / "sae", *words)


def test_what_is_not_measured_says_why(world: Path, tmp_path: Path) -> None:
    rows = (world / "others.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "one.jsonl").write_text(rows[0] + "\n", encoding="utf-8")
    words = ("eval", world / "sae", "--data", tmp_path / "one.jsonl", "--json", tmp_path / "j")
    printed = run(sae_command.app, *words)
    found = json.loads((tmp_path / "j").read_text(encoding="utf-8"))["splice"]["recovered_from_mean"]
    assert "reason" in found
    assert f"loss recovered from the mean: unmeasured: {found['reason']}" in printed


def test_what_is_to_be_rebuilt_is_said_once(world: Path) -> None:
    both = ("--data", world / "others.jsonl", "--store", world / "store")
    for words in ((), both):
        with pytest.raises(UsageError, match="--store"):
            run(sae_command.app, "eval", world / "sae", *words)
    with pytest.raises(UsageError, match="NAME=FILE"):
        run(sae_command.app, "eval", world / "sae", "--data", world / "others.jsonl", "--concept", "pirate")
