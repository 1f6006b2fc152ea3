from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pool_jobs import work
from trimtab.errors import DataError, Fault, TrainingError
from trimtab.train.pool import run_jobs

PARENT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background is started with Ctrl-C ignored
from pool_jobs import work
from trimtab.train.pool import run_jobs
if __name__ == "__main__":
    run_jobs(work, [("sleep", sys.argv[1]), ("sleep", sys.argv[2])], workers=2, threads=1)
"""


def test_one_worker_is_this_process_and_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    heard: list[object] = []
    jobs = [("describe", "a"), ("describe", "b")]
    results = run_jobs(
        work, jobs, workers=1, threads=before + 1, progress=lambda job, event: heard.append((job, event))
    )
    assert results == (("a", os.getpid(), before + 1), ("b", os.getpid(), before + 1))
    assert heard == [(0, "begin a"), (0, "end a"), (1, "begin b"), (1, "end b")]
    assert torch.get_num_threads() == before


def test_two_workers_share_three_jobs_and_results_keep_their_order() -> None:
    heard: list[tuple[int, object]] = []
    jobs = [("describe", name) for name in "abc"]
    results = run_jobs(work, jobs, workers=2, threads=1, progress=lambda job, event: heard.append((job, event)))
    assert [value for value, _, _ in results] == ["a", "b", "c"]
    assert [threads for _, _, threads in results] == [1, 1, 1]
    assert len({process for _, process, _ in results} - {os.getpid()}) == 2
    for job, name in enumerate("abc"):
        assert [event for number, event in heard if number == job] == [f"begin {name}", f"end {name}"]


def test_workers_tidy_up_when_there_is_nothing_left_to_do(tmp_path: Path) -> None:
    places = [tmp_path / name for name in "ab"]
    run_jobs(work, [("tidy", str(place)) for place in places], workers=2, threads=1)
    assert [place.read_text() for place in places] == ["tidied", "tidied"]


def test_no_jobs_are_no_results() -> None:
    assert run_jobs(work, [], workers=2, threads=1) == ()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("refuse", DataError, "f:3: second"),
        ("crash", TrainingError, "ZeroDivisionError: second"),
        ("die", TrainingError, "exit code 9"),
    ],
)
def test_a_failure_ends_the_others_and_arrives_whole(
    tmp_path: Path, kind: str, error: type[Exception], message: str
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        run_jobs(work, [("sleep", str(tmp_path / "first")), (kind, "second")], workers=2, threads=1)
    assert time.monotonic() - began < 50
    if isinstance(caught.value, DataError):
        assert caught.value.faults == (Fault(file="f", line=3, reason="second"),)
        assert caught.value.todo == "mend"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_no_worker_outlives_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    script, marks = tmp_path / "parent.py", [tmp_path / "one", tmp_path / "two"]
    script.write_text(PARENT)
    command = [sys.executable, str(script), *map(str, marks)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:
        try:
            wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks), seconds=300)
            parent.send_signal(ending)
            assert parent.wait(timeout=60) != 0
        finally:
            parent.kill()
    workers = [int(mark.read_text()) for mark in marks]
    wait_until(lambda: not any(alive(worker) for worker in workers), seconds=30)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until(true: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
