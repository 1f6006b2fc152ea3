"""Start-up times and peak memory, measured on whole processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.measure import Ratio, of_turns, seconds

_TRIMTAB = str(Path(sys.executable).with_name("trimtab"))

_LOAD = """
import torch; torch.set_num_threads(1)
from bench.passes import Step, random_llama
from trimtab.data.batches import Batch
from trimtab.model.base import LanguageModel
from trimtab.model.capture import activation_gradients
from trimtab.records.site import Site
model = random_llama(8, 256, 4096, "cpu", torch.float32)
ids = torch.randint(10, 4000, (32, 256)); labels = ids.clone(); labels[:, :128] = -100
batch = Batch(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
"""
_READ = _LOAD + (
    "lm = LanguageModel(model=model, tokenizer=None, name='', content_hash='')\n"
    "activation_gradients(lm, ids, batch.attention_mask, labels, [Site(4)])\n"
)
_TRAIN = _LOAD + "Step(model, batch)()\n"
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
    """Peak memory of a forecast pass at the middle layer against a training step on the same batch, whole processes."""

    def peak(script: str) -> int:
        command = [sys.executable, "-c", script + _PEAK]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    found: list[float] = []
    for _ in range(turns):
        read, train = peak(_READ), peak(_TRAIN)
        found.append(read / train)
    return [
        of_turns(
            "llama 8x256: peak memory of a forecast pass, layer 4",
            found,
            target=None,
            unit="of a training step, whole process",
        )
    ]
