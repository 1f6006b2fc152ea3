from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.errors import StorageError
from trimtab.records.config import RunSettings, TrainSettings, read_settings
from trimtab.train.runs import locked, open_run

SETTINGS = RunSettings(model="lab", data="rows.jsonl", spec="spec.md")
MATERIAL = {"model": "abc", "data": "def"}
HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print(flush=True)
time.sleep(60)
"""


def test_a_run_folder_is_made_and_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    with open_run(folder, SETTINGS, material=MATERIAL, threads=1) as first:
        assert read_settings(folder / "run.yaml") == SETTINGS
    more_jobs = SETTINGS.model_copy(update={"jobs": 2})
    with open_run(folder, more_jobs, material=MATERIAL, threads=1) as again:
        assert again == first


def test_other_settings_or_data_are_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    with open_run(tmp_path, SETTINGS, material=MATERIAL, threads=1):
        pass
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = SETTINGS.model_copy(update={"train": TrainSettings(max_steps=7)})
    with (
        pytest.raises(StorageError, match=r"settings\.train\.max_steps: 300 there, 7 now"),
        open_run(tmp_path, other, material=MATERIAL, threads=1),
    ):
        pass
    with (
        pytest.raises(StorageError, match=r"material\.data"),
        open_run(tmp_path, SETTINGS, material={**MATERIAL, "data": "other"}, threads=1),
    ):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(StorageError, match=r"thesis\.tex"),
        open_run(tmp_path, SETTINGS, material=MATERIAL, threads=1),
    ):
        pass
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {"thesis.tex"}


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StorageError, match="cannot write"),
        open_run(tmp_path / "file" / "run", SETTINGS, material=MATERIAL, threads=1),
    ):
        pass


def test_a_lock_keeps_others_out_and_dies_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(StorageError, match="another process"), locked(tmp_path):
                pass
        finally:
            holder.kill()
    with locked(tmp_path), pytest.raises(StorageError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
