"""Stopped anywhere, the same call ends with the same bits as a run that was never stopped."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from train_world import (
    STEPS,
    die_before_marker,
    die_in_publish,
    die_in_save,
    host,
    rows,
    same,
    train,
    train_to_step,
    weights,
)
from trimtab.errors import StorageError
from trimtab.train.checkpoints import newest_complete
from trimtab.train.metrics import read_metrics
from trimtab.train.trainer import TrainProgress

SAVES = (3, 6, 9, STEPS)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def killable() -> ForkServerContext:
    """Starts processes quickly: one server imports everything, each process is forked from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_world"])
    return context


def lines(folder: Path) -> list[tuple[int, float, float, float]]:
    return [
        (line.step, line.loss, line.learning_rate, line.grad_norm) for line in read_metrics(folder / "metrics.jsonl")
    ]


def assert_same_run(folder: Path, straight: Path) -> None:
    assert same(weights(folder), weights(straight))
    assert lines(folder) == lines(straight)
    assert [step for step, *_ in lines(folder)] == [2, 4, 6, 8, 10, STEPS]
    assert not list(folder.glob("checkpoint-*"))
    assert not [path.name for path in folder.iterdir() if path.name.endswith((".new", ".tmp"))]


def killed(context: ForkServerContext, work: Callable[[Path], object], folder: Path) -> None:
    process = context.Process(target=work, args=(folder,))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("step", [1, 3, 4, 8, STEPS])
def test_ctrl_c_at_any_step(tmp_path: Path, straight: Path, step: int) -> None:
    def progress(now: TrainProgress) -> None:
        if now.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, progress=progress)
    assert not (tmp_path / "done.json").exists()
    seen: list[int] = []
    train(tmp_path, progress=lambda now: seen.append(now.step))
    resumed_at = max([save for save in SAVES if save < step], default=0)
    assert seen == list(range(resumed_at + 1, STEPS + 1))
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize(
    "work",
    [
        partial(train_to_step, step=2),
        partial(train_to_step, step=7),
        partial(die_in_save, step=3, name="optimizer.pt"),
        partial(die_in_save, step=6, name="rng_state.pth"),
        partial(die_before_marker, step=9),
        partial(die_before_marker, step=STEPS),
        partial(die_in_publish, stage="weights"),
        partial(die_in_publish, stage="done"),
        partial(die_in_publish, stage="clean"),
    ],
    ids=lambda work: "-".join([work.func.__name__, *map(str, work.keywords.values())]),
)
def test_kill_9_anywhere(
    tmp_path: Path, straight: Path, killable: ForkServerContext, work: Callable[[Path], object]
) -> None:
    killed(killable, work, tmp_path)
    train(tmp_path)
    assert_same_run(tmp_path, straight)


def test_killed_again_and_again(tmp_path: Path, straight: Path, killable: ForkServerContext) -> None:
    for step in (4, 5, 10):
        killed(killable, partial(train_to_step, step=step), tmp_path)
    train(tmp_path)
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize("damage", ["optimizer.pt", "complete.json"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, straight: Path, damage: str) -> None:
    stop_after(tmp_path, 7)
    path = tmp_path / "checkpoint-6" / damage
    path.write_bytes(path.read_bytes()[:-9])
    found = newest_complete(tmp_path)
    assert found is not None
    assert found.step == 3
    train(tmp_path)
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize(("method", "architecture"), [("full", "gpt2"), ("lora", "gpt2"), ("full", "llama")])
def test_other_methods_and_dropout(tmp_path: Path, method: str, architecture: str) -> None:
    def go(folder: Path, progress: Callable[[TrainProgress], None] | None = None) -> None:
        train(folder, method=method, architecture=architecture, dropout=0.2, progress=progress)

    go(tmp_path / "straight")
    for step in (4, 7):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "stopped", progress=partial(interrupt, step))
    go(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")
    assert not same(weights(tmp_path / "stopped"), other_seed(tmp_path, method, architecture))


def other_seed(tmp_path: Path, method: str, architecture: str) -> dict[str, torch.Tensor]:
    """So that "the same" is not true of any two runs."""
    train(tmp_path / "other", method=method, architecture=architecture, dropout=0.2, seed=1)
    return weights(tmp_path / "other")


def interrupt(step: int, now: TrainProgress) -> None:
    if now.step == step:
        raise KeyboardInterrupt


def stop_after(folder: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(folder, progress=partial(interrupt, step))


def test_a_finished_student_is_not_trained_again(straight: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in straight.iterdir() if path.name != ".lock"}
    steps: list[TrainProgress] = []
    result = train(straight, progress=steps.append)
    assert steps == []
    assert result.steps == STEPS
    assert {path.name: path.stat().st_mtime_ns for path in straight.iterdir() if path.name != ".lock"} == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 2e-2}, "settings.learning_rate: 0.01 there, 0.02 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"controls": ()}, 'controls: ["push"] there, [] now'),
        ({"identity": {"strength": 2}}, "material.strength: nothing there, 2 now"),
        ({"rows": rows(6)}, "rows: "),
        ({"host": host(seed=1)}, "model: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_call_is_refused_in_the_same_folder(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    stop_after(tmp_path, 4)
    before = json.loads((tmp_path / "manifest.json").read_text())
    with pytest.raises(StorageError) as caught:
        train(tmp_path, **changed)
    assert named in str(caught.value)
    assert newest_complete(tmp_path) is not None
    assert json.loads((tmp_path / "manifest.json").read_text()) == before


def test_damaged_weights_are_not_taken_for_a_finished_student(tmp_path: Path) -> None:
    train(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(StorageError, match="are not those that training wrote"):
        train(tmp_path)
