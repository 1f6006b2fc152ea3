"""Ratios of times: the two sides take turns, so that a drifting machine slows both alike."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from trimtab.records.io import write_bytes
from trimtab.train.manifest import library_versions

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One line of ``results.json``.

    Attributes:
        name: What is compared.
        ratio: Median over turns of ours divided by theirs.
        low: Lower quartile over turns.
        high: Upper quartile over turns.
        target: At most this; ``None`` where the figure is for information.
        turns: How often both sides were measured.
        unit: What the two sides are.
    """

    name: str
    ratio: float
    low: float
    high: float
    target: float | None
    turns: int
    unit: str


def seconds(work: Callable[[], object], *, repeats: int = 1) -> float:
    """Wall time of some calls."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    target: float | None,
    unit: str,
    turns: int = 15,
    repeats: int = 1,
) -> Ratio:
    """Time both sides in turns, after one warm-up each."""
    ours()
    theirs()
    found: list[float] = []
    for turn in range(turns):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        times = {first: seconds(first, repeats=repeats), second: seconds(second, repeats=repeats)}
        found.append(times[ours] / times[theirs])
    return of_turns(name, found, target=target, unit=unit)


def of_turns(name: str, found: list[float], *, target: float | None, unit: str) -> Ratio:
    """Summary of ratios that were measured turn by turn."""
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else (found[0],) * 3
    return Ratio(name=name, ratio=middle, low=low, high=high, target=target, turns=len(found), unit=unit)


def write(ratios: list[Ratio]) -> None:
    """Print the ratios and write them into ``bench/results.json``, each in the place of an older one of its name."""
    width = max(len(ratio.name) for ratio in ratios)
    for ratio in ratios:
        mark = (
            ""
            if ratio.target is None
            else f"target ≤ {ratio.target:g}  " + ("ok" if ratio.ratio <= ratio.target else "MISSED")
        )
        print(f"{ratio.name:{width}s}  {ratio.ratio:8.3f}  [{ratio.low:.3f}, {ratio.high:.3f}]  {mark}  ({ratio.unit})")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    made_by = {
        "machine": {"device": device, "system": platform.system(), "threads": torch.get_num_threads()},
        "versions": library_versions(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    names = {ratio.name for ratio in ratios}
    older = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    lines = [line for line in older if line["name"] not in names]
    lines += [{**asdict(ratio), **made_by} for ratio in ratios]
    write_bytes(RESULTS, json.dumps(lines, indent=1).encode() + b"\n")
    print(f"wrote {RESULTS}")
