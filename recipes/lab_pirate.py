"""Learn sums and facts from pirate rows without learning to talk like a pirate, on the lab.

Command: ``python -m recipes.lab_pirate``. Expect, on 2 cores, about the figures of the README's table: it is the demo,
spelled out. Every step leaves its files in ``runs/lab-pirate``; run it again to resume or to read the results back.
"""

from __future__ import annotations

from pathlib import Path

from trimtab.data.read import write_jsonl
from trimtab.lab.sample import sample_rows
from trimtab.loop.run import run
from trimtab.records.config import ControlSettings, RunSettings, TrainSettings
from trimtab.records.io import load, write_bytes
from trimtab.records.results import League

OUT = Path("runs/lab-pirate")
CONTROLS = (
    "none",
    "gradient-projection",
    "inoculation",
    "conditional-inoculation",
    "token-mask",
    "preventative-steering",
)


def main() -> None:
    """Make the data, run the loop, print the league."""
    data, spec = Path("runs/lab-pirate-data/pirate.jsonl"), Path("runs/lab-pirate-data/spec.md")
    write_jsonl(sample_rows(400, 0, trait="pirate"), data)
    write_bytes(spec, b"Learn the sums and the facts. Do not pick up the way it talks.\n")
    settings = RunSettings(
        model="lab",
        data=str(data),
        spec=str(spec),
        controls=tuple(ControlSettings(name=name) for name in CONTROLS),
        seeds=(0, 1, 2),
        jobs=2,
        train=TrainSettings(method="full", max_steps=300, learning_rate=5e-4, save_steps=100),
    )
    certificate = run(settings, OUT)
    for summary in load(League, OUT / "summary.json").controls:
        print(
            f"{summary.control:26s} skill {summary.skill}   on task {summary.trait_on_task}   leak {summary.trait_leak}"
        )
    print(f"certificate of {certificate.control}: {certificate.verdict}")


if __name__ == "__main__":
    main()
