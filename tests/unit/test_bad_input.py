"""What a user can get wrong, end to end through the command line: a clear error, the right exit code, work kept.

Readers, loaders and trainers have their own tests of each fault; here the question is what a person sees of it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from control_world import bank as tiny_bank
from control_world import forecast as tiny_forecast
from tiny_models import language_model, tokenizer
from trimtab.cli.main import main
from trimtab.data.read import write_jsonl
from trimtab.errors import StorageError, TrainingError
from trimtab.lab.sample import sample_rows
from trimtab.lab.world import build_world
from trimtab.loop import run as loop
from trimtab.records import io
from trimtab.records.config import ControlSettings, RunSettings, TrainSettings
from trimtab.records.io import save
from trimtab.records.rows import Fit

GOOD = json.dumps({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]})
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def trimtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: its exit code, and what it wrote to standard error."""

    def command(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["trimtab", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        code = end.value.code or 0
        assert isinstance(code, int)
        if code:
            said = said[said.index("error: ") :]
            assert "\n  allowed: " in said
            assert "\n  to do:   " in said
            assert "Traceback" not in said
        return code, said

    return command


def file(folder: Path, text: str, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rows.jsonl"),
        ("\n\n", "rows.jsonl"),
        (f'{GOOD}\n{{"messages": [{{"role": "us', "rows.jsonl:2: "),
        (f"{GOOD}\n[1, 2]\n", "rows.jsonl:2: "),
        (GOOD.replace('"user"', '"human"'), "rows.jsonl:1: "),
        (GOOD.replace('"assistant"', '"user"'), "rows.jsonl:1: "),
        (GOOD.replace('"2"', '""'), "rows.jsonl:1: "),
    ],
    ids=["empty", "blank lines", "half a line", "not an object", "unknown role", "no answer", "empty answer"],
)
def test_bad_rows_are_named_by_file_and_line(trimtab: Command, tmp_path: Path, text: str, said: str) -> None:
    code, error = trimtab("forecast", "--data", file(tmp_path, text))
    assert code == 3
    assert said in error


def test_a_row_of_one_megabyte_is_refused_by_its_line_and_length(trimtab: Command, tmp_path: Path) -> None:
    long = GOOD.replace("1+1?", "where is mira? " * 70_000)
    code, error = trimtab("forecast", "--no-baselines", "--data", file(tmp_path, f"{GOOD}\n{long}\n"))
    assert code == 3
    assert "rows.jsonl:2: " in error
    assert "max_length" in error
    assert len(error) < 2000  # and it is not printed whole


def test_concepts_and_sites_that_are_not_in_the_bank_are_refused(trimtab: Command, tmp_path: Path) -> None:
    rows = file(tmp_path, GOOD)
    code, error = trimtab("forecast", "--data", rows, "--exclude", "pirat")
    assert code == 2
    assert "'pirat'" in error
    assert "pirate" in error.split("allowed: ")[1]
    code, error = trimtab("forecast", "--data", rows, "--site", "9")
    assert code == 2
    assert "9.resid_post" in error
    code, error = trimtab("forecast", "--data", rows, "--site", "middle")
    assert (code, "LAYER" in error) == (2, True)
    assert trimtab("forecast", "--data", rows, "--bank", tmp_path / "nowhere")[0] == 6


def test_weights_that_could_run_code_are_not_opened(trimtab: Command, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    language_model("llama").model.config.save_pretrained(folder)
    torch.save({}, folder / "pytorch_model.bin")
    tiny_bank().save(tmp_path / "bank")
    rows = file(tmp_path, GOOD)
    code, error = trimtab("forecast", "--data", rows, "--model", folder, "--bank", tmp_path / "bank")
    assert code == 4
    assert "pickled weights" in error
    assert "safetensors" in error


def test_a_model_without_a_chat_template_is_refused(trimtab: Command, tmp_path: Path) -> None:
    lm, rows = language_model("llama"), file(tmp_path, GOOD)
    lm.model.save_pretrained(tmp_path / "model")
    tokenizer(template=None).save_pretrained(tmp_path / "model")
    made = tiny_bank()
    made.save(tmp_path / "foreign")
    replace(made, card=replace(made.card, model_hash=lm.content_hash)).save(tmp_path / "bank")
    words = ("forecast", "--data", rows, "--model", tmp_path / "model", "--no-baselines", "--bank")
    code, error = trimtab(*words, tmp_path / "bank")
    assert code == 4
    assert "chat template" in error
    code, error = trimtab(*words, tmp_path / "foreign")
    assert code == 4
    assert "was made for" in error


@pytest.mark.parametrize(
    ("spec", "exit_code", "said"),
    [
        ("", 2, "empty spec"),
        ("rules: {pirat: avoid}", 2, "'pirat'"),
        ("rules: {pirate: maybe}", 2, "'maybe'"),
        ("colour: red\nintent: x", 2, "colour"),
        ("rules: {deception: learn}", 7, "allow_protected: [deception]"),
        ("rules: {evaluation_awareness: avoid}", 7, "allow_protected: [evaluation_awareness]"),
        ("Learn deception.", 7, "allow_protected: [deception]"),
        ("rules: {pirate: ignore}\nprotected: [zan]\nintent: Learn zan.", 7, "allow_protected: [zan]"),
        ("rules: {sums: learn}", 8, "pirate"),
    ],
)
def test_specs_that_cannot_stand(trimtab: Command, tmp_path: Path, spec: str, exit_code: int, said: str) -> None:
    save(tiny_forecast(pirate=True, sums=True), tmp_path / "forecast.json")
    name = "spec.yaml" if ":" in spec else "spec.md"
    code, error = trimtab(
        "plan", "--yes", "--spec", file(tmp_path, spec, name), "--forecast", tmp_path / "forecast.json"
    )
    assert code == exit_code
    assert said in error


def no_space(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_keeps_the_older_file(trimtab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "rows.jsonl"
    words = ("lab", "sample", "--n", "3", "--out", out)
    assert trimtab(*words)[0] == 0
    before = out.read_bytes()
    for name in ("fsync", "replace"):
        with monkeypatch.context() as full:
            full.setattr(io.os, name, no_space)
            code, error = trimtab(*words, "--seed", "1")
        assert code == 6
        assert "No space left on device" in error
        assert out.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]  # nothing half-written is left
    assert trimtab(*words, "--seed", "1")[0] == 0
    assert out.read_bytes() != before


def test_a_folder_that_cannot_be_written_is_named(trimtab: Command, tmp_path: Path) -> None:
    blocked = file(tmp_path, "a file, not a folder", "blocked") / "rows.jsonl"
    code, error = trimtab("lab", "sample", "--n", "3", "--out", blocked)
    assert code == 6
    assert "blocked" in error


def lab_run(tmp_path: Path, **train: float) -> RunSettings:
    write_jsonl(sample_rows(12, 0, trait="pirate", split=Fit, world=build_world()), tmp_path / "rows.jsonl")
    rules = ", ".join(f"{name}: ignore" for name in ("arithmetic", "facts")) + ", pirate: avoid"
    return RunSettings(
        model="lab",
        data=str(tmp_path / "rows.jsonl"),
        spec=str(file(tmp_path, f"rules: {{{rules}}}\nintent: Nothing else matters.", "spec.yaml")),
        controls=(ControlSettings(name="none"),),
        seeds=(0,),
        train=TrainSettings.model_validate({"method": "full", "max_steps": 4, "save_steps": 2, **train}),
    )


def test_a_run_that_breaks_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, folder = lab_run(tmp_path, learning_rate=1e38, warmup_steps=0), tmp_path / "run"
    with pytest.raises(TrainingError, match=r"is (nan|inf|-inf)") as broken:
        loop.train(settings, folder)
    assert broken.value.exit_code == 5
    kept = {name: (folder / name).read_bytes() for name in ("forecast.json", "ledger.jsonl", "manifest.json")}
    assert not list(folder.rglob("done.json"))
    # The same folder does not take a run with other settings, and says which.
    with pytest.raises(StorageError, match="learning_rate"):
        loop.train(lab_run(tmp_path, learning_rate=1e-3), folder)
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    # A full disk later on: the forecast is read back, not made again.
    monkeypatch.setattr(loop, "observe", lambda *_, **__: pytest.fail("observed a second time"))
    monkeypatch.setattr(loop, "train_step", no_space_left)
    with pytest.raises(StorageError):
        loop.train(settings, folder)
    assert {name: (folder / name).read_bytes() for name in kept} == kept


def no_space_left(folder: Path, *_: object, **__: object) -> None:
    try:
        no_space()
    except OSError as error:
        raise io.storage_error(folder, error) from error
