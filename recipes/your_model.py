"""The same loop on a Hugging Face model of your own (Llama, Qwen, Gemma, GPT-2, Pythia and their relatives).

Command: ``python -m recipes.your_model MODEL CONCEPTS.yaml ROWS.jsonl SPEC.md``. The first run makes the bank (a few
hundred short generations and one reading pass per concept), the rest is ``trimtab run``. No figures are promised: they
depend on the model, and the lab's do not carry over. Look first at the bank's AUROCs, then at the forecast.
"""

from __future__ import annotations

import sys
from pathlib import Path

from trimtab.lens.contrast import read_contrasts
from trimtab.lens.extract import BankSettings, make_bank
from trimtab.loop.run import run
from trimtab.model.host import Host
from trimtab.records.config import RunSettings, TrainSettings
from trimtab.records.io import load
from trimtab.records.results import League

BANK, OUT = Path("banks/mine"), Path("runs/mine")


def main(model: str, concepts: str, rows: str, spec: str) -> None:
    """Make the bank if there is none, run the loop, print the league."""
    if not (BANK / "bank.json").exists():
        made = make_bank(Host.load(model), read_contrasts(Path(concepts)), BankSettings(name="mine"))
        made.save(BANK)
    settings = RunSettings(
        model=model,
        data=rows,
        spec=spec,
        bank=str(BANK),
        seeds=(0,),
        train=TrainSettings(method="lora", max_steps=200, learning_rate=2e-4, per_device_train_batch_size=8, bf16=True),
    )
    certificate = run(settings, OUT)
    for summary in load(League, OUT / "summary.json").controls:
        print(
            f"{summary.control:26s} skill {summary.skill}   on task {summary.trait_on_task}   leak {summary.trait_leak}"
        )
    print(f"certificate of {certificate.control}: {certificate.verdict}; report: {OUT / 'report.html'}")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: python -m recipes.your_model MODEL CONCEPTS.yaml ROWS.jsonl SPEC.md")
    main(*sys.argv[1:])
