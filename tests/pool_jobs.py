"""Jobs for workers in tests: top-level, so that a worker finds them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path

import torch

from trimtab.errors import DataError, Fault


def work(job: tuple[str, str], report: Callable[[object], None]) -> object:
    """Do what the first word says with the second."""
    kind, value = job
    report(f"begin {value}")
    if kind == "describe":
        time.sleep(0.2)
        report(f"end {value}")
        return (value, os.getpid(), torch.get_num_threads())
    if kind == "refuse":
        raise DataError("bad rows", allowed="good rows", todo="mend", faults=[Fault(file="f", line=3, reason=value)])
    if kind == "crash":
        raise ZeroDivisionError(value)
    if kind == "tidy":
        Finalize(None, Path(value).write_text, args=("tidied",), exitpriority=0)
        return None
    if kind == "die":
        os._exit(9)
    Path(value).write_text(str(os.getpid()))
    time.sleep(60)
    return None
