from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trimtab.errors import StorageError
from trimtab.train.metrics import Journal, read_metrics, trim_metrics


def written(path: Path, steps: int) -> Path:
    journal = Journal(path=path)
    for step in range(1, steps + 1):
        journal.add(torch.tensor(float(step)))
        if step % 2 == 0:
            journal.write(step=step, learning_rate=0.1, grad_norm=1.0)
    return path


def test_a_line_holds_the_mean_since_the_last_line(tmp_path: Path) -> None:
    lines = read_metrics(written(tmp_path / "metrics.jsonl", 6))
    assert [(line.step, line.loss) for line in lines] == [(2, 1.5), (4, 3.5), (6, 5.5)]


def test_trimming_removes_later_lines_and_a_torn_one(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 6)
    with path.open("ab") as file:
        file.write(b'{"step": 8, "lo')
    assert [line.step for line in read_metrics(path)] == [2, 4, 6]
    trim_metrics(path, 4)
    assert [line.step for line in read_metrics(path)] == [2, 4]
    assert path.read_bytes().count(b"\n") == 2
    trim_metrics(tmp_path / "none.jsonl", 4)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_damaged_line_before_the_last_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 6)
    path.write_bytes(b"nonsense\n" + path.read_bytes())
    with pytest.raises(StorageError, match=r"metrics\.jsonl:1"):
        read_metrics(path)
