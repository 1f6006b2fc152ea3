"""Several jobs side by side, each in a process of its own.

A worker computes with the same number of threads as a job that runs alone, so the results are the same bit for bit.
Workers share nothing but one pipe each with the parent: killing any of them can garble no queue and hold no lock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic, TypeAlias, TypeVar, cast

from trimtab.errors import TrainingError, TrimtabError
from trimtab.train.threads import fixed_threads

JobT = TypeVar("JobT")
EventT = TypeVar("EventT")
ResultT = TypeVar("ResultT")

Work: TypeAlias = Callable[[JobT, Callable[[EventT], None]], ResultT]
"""A job's function: the job, and where to report events to. Top-level in its module, so that a worker finds it."""


@dataclass(frozen=True, kw_only=True)
class _Event:
    payload: object


@dataclass(frozen=True, kw_only=True)
class _Result:
    payload: object


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An error on its way through a pipe; ``TrimtabError`` takes keywords, which pickling an exception loses."""

    kind: type[TrimtabError] | None
    args: tuple[object, ...]
    state: dict[str, object]
    text: str

    @staticmethod
    def of(error: Exception) -> _Failure:
        """Pack an error."""
        if isinstance(error, TrimtabError):
            return _Failure(kind=type(error), args=error.args, state=dict(vars(error)), text="")
        return _Failure(kind=None, args=(), state={}, text="".join(traceback.format_exception(error)).rstrip())

    def error(self, job: str) -> TrimtabError:
        """Unpack it; an error that no one foresaw comes with its traceback."""
        if self.kind is None:
            return TrainingError(
                f"{job} failed in its process:\n{self.text}",
                allowed="a job that ends",
                todo="run the same command again, it resumes; if it fails again, report the traceback",
            )
        error = self.kind.__new__(self.kind)
        error.args = self.args
        vars(error).update(self.state)
        return error


@dataclass(kw_only=True)
class _Worker(Generic[JobT]):
    process: SpawnProcess
    pipe: Connection
    job: int


def run_jobs(
    work: Work[JobT, EventT, ResultT],
    jobs: Sequence[JobT],
    *,
    workers: int,
    threads: int,
    progress: Callable[[int, EventT], None] | None = None,
) -> tuple[ResultT, ...]:
    """Run every job and return the results in the order of the jobs.

    With one worker the jobs run here, one after the other. With more they run in fresh processes (started with
    ``spawn``: a script that calls this needs the usual ``if __name__ == "__main__"``). A worker ends by itself as
    soon as its parent is gone; Ctrl-C and errors end all of them.

    Args:
        work: Called with a job and a function to report events to; top-level, with picklable jobs and results.
        jobs: The jobs.
        workers: Processes at most.
        threads: CPU threads that each job computes with (``threads.training_threads``).
        progress: Called here with a job's position and its event.

    Raises:
        TrimtabError: The first error of any job, as it was raised there.
        TrainingError: If a worker dies, for example because the machine has no memory left.
    """
    report = progress or _ignore
    if min(workers, len(jobs)) <= 1:
        with fixed_threads(threads):
            return tuple(work(job, partial(report, index)) for index, job in enumerate(jobs))
    results: dict[int, ResultT] = {}
    waiting = list(range(len(jobs)))
    pool: list[_Worker[JobT]] = []
    try:
        for _ in range(min(workers, len(jobs))):
            pool.append(_start(work, threads))
            _assign(pool[-1], waiting, jobs)
        while len(results) < len(jobs):
            for worker in _ready(pool):
                message = _receive(worker)
                if isinstance(message, _Event):
                    report(worker.job, cast("EventT", message.payload))
                elif isinstance(message, _Failure):
                    raise message.error(f"job {worker.job + 1} of {len(jobs)}")
                else:
                    results[worker.job] = cast("ResultT", message.payload)
                    _assign(worker, waiting, jobs)
    finally:
        _stop(pool)
    return tuple(results[index] for index in range(len(jobs)))


def _ignore(index: int, event: object) -> None:
    del index, event


def _start(work: Work[JobT, EventT, ResultT], threads: int) -> _Worker[JobT]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(work, there, threads), daemon=True)
    process.start()
    there.close()
    return _Worker(process=process, pipe=here, job=-1)


def _assign(worker: _Worker[JobT], waiting: list[int], jobs: Sequence[JobT]) -> None:
    """Hand a worker its next job, if one is left."""
    worker.job = waiting.pop(0) if waiting else -1
    if worker.job >= 0:
        worker.pipe.send(jobs[worker.job])


def _ready(pool: Sequence[_Worker[JobT]]) -> list[_Worker[JobT]]:
    """Wait for workers that have something to say, or whose end of the pipe is closed."""
    busy = [worker for worker in pool if worker.job >= 0]
    ready = wait([worker.pipe for worker in busy])
    return [worker for worker in busy if worker.pipe in ready]


def _receive(worker: _Worker[JobT]) -> _Event | _Result | _Failure:
    try:
        return cast("_Event | _Result | _Failure", worker.pipe.recv())
    except (EOFError, ConnectionError) as error:
        worker.process.join(timeout=5)
        raise TrainingError(
            f"the process of job {worker.job + 1} died (exit code {worker.process.exitcode})",
            allowed="a process that ends by itself",
            todo="if memory ran out, lower `jobs`; then run the same command again: it resumes",
        ) from error


def _stop(pool: Sequence[_Worker[JobT]]) -> None:
    """End every worker: one without a job ends by itself when its pipe is closed, and tidies up what it holds."""
    for worker in pool:
        if worker.job >= 0:
            worker.process.terminate()
        worker.pipe.close()
    for worker in pool:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _serve(work: Work[JobT, EventT, ResultT], pipe: Connection, threads: int) -> None:
    """A worker's life: jobs in, events and results out, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with fixed_threads(threads):
        while True:
            try:
                job = cast("JobT", pipe.recv())
            except EOFError:
                return
            try:
                pipe.send(_Result(payload=work(job, lambda event: pipe.send(_Event(payload=event)))))
            except Exception as error:
                pipe.send(_Failure.of(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
