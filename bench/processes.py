"""Start-up times and peak memory, measured on whole processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.measure import Ratio, of_turns, seconds

_TRIMTAB = str(Path(sys.executable).with_name("trimtab"))

_LOAD = """
import torch; torch.set_num_threads(1)
from trimtab.model.host import Host
from trimtab.lab.sample import sample_rows
from trimtab.lab.world import build_world
from trimtab.lens.readings import encode_rows, read_rows
from trimtab.lens.bank import Bank
from bench.passes import Step
from trimtab.data.batches import batches, pad_id
host = Host.load("lab"); rows = sample_rows(256, 0, trait="pirate", world=build_world())
encoded = encode_rows(host, rows.items, max_length=512)
"""
_READ = _LOAD + "read_rows(host, encoded, Bank.load('lab').card.sites, batch_size=128)\n"
_TRAIN = _LOAD + (
    "student = host.student()\n"
    "for _, batch in batches(encoded, pad_id(host.tokenizer), batch_size=128): Step(student, batch)()\n"
)
_PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_up(turns: int = 9) -> list[Ratio]:
    """Seconds (not ratios) of ``--help`` and of imports, and ``--help`` as a ratio to a bare interpreter with typer."""
    commands = {
        "trimtab --help": (_TRIMTAB, "--help"),
        "import trimtab": (sys.executable, "-c", "import trimtab"),
        "python + typer": (sys.executable, "-c", "import typer"),
        "import torch": (sys.executable, "-c", "import torch"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for command in commands.values():
        _run(*command)
    for _ in range(turns):
        for name, command in commands.items():
            times[name].append(seconds(lambda command=command: _run(*command)))

    def against(name: str, other: str, target: float | None) -> Ratio:
        found = [a / b for a, b in zip(times[name], times[other], strict=True)]
        return of_turns(f"{name} / {other}", found, target=target, unit="of the other command")

    return [
        of_turns("trimtab --help, seconds", times["trimtab --help"], target=0.3, unit="seconds"),
        of_turns("import trimtab, seconds", times["import trimtab"], target=None, unit="seconds"),
        against("trimtab --help", "python + typer", None),
        against("trimtab --help", "import torch", None),
    ]


def peak_memory(turns: int = 3) -> list[Ratio]:
    """Peak resident memory of reading 256 rows at all layers against training on them, both above a loaded model."""

    def peak(script: str) -> int:
        command = [sys.executable, "-c", script + _PEAK]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    found: list[float] = []
    for _ in range(turns):
        base, read, train = (peak(script) for script in (_LOAD, _READ, _TRAIN))
        found.append((read - base) / (train - base))
    return [of_turns("peak memory of a forecast pass", found, target=None, unit="of a training step, above the model")]
