"""What the experiments share: quick fine-tuning, sampled rates, and result files that say what made them."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from trimtab.data.batches import collate, pad_id
from trimtab.lens.readings import encode_rows
from trimtab.model.generate import generate
from trimtab.model.host import Host, LanguageModel
from trimtab.records.figures import Figure, Measured
from trimtab.records.io import write_bytes
from trimtab.records.rows import ChatRow, Message
from trimtab.stats import spearman
from trimtab.train.manifest import library_versions
from trimtab.train.order import row_order

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, *, seed: int, settings: Mapping[str, object], findings: Mapping[str, object]) -> Path:
    """Write ``science/results/NAME.json`` with seed, commit and versions."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    path = RESULTS / f"{name}.json"
    made_by = {
        "seed": seed,
        "commit": commit,
        "dirty": any(not line.endswith(".json") for line in dirty.splitlines()),
        "versions": library_versions(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps({"made_by": made_by, "settings": dict(settings), **findings}, indent=1)
    write_bytes(path, text.encode() + b"\n")
    return path


def plain(figure: Figure) -> dict[str, object]:
    """A figure for JSON."""
    if isinstance(figure, Measured):
        return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}
    return {"value": None, "reason": figure.reason}


def fine_tune(
    host: Host, rows: Sequence[ChatRow], *, steps: int, learning_rate: float, seed: int, batch_size: int = 16
) -> LanguageModel:
    """Full fine-tuning without any control: the plain loop that every forecast is held against."""
    torch.manual_seed(seed)
    student: PreTrainedModel = host.student()
    encoded = encode_rows(host, rows, max_length=512)
    order = row_order([len(row.input_ids) for row in encoded], steps=steps, batch_size=batch_size, seed=seed)
    optimiser = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    padding = pad_id(host.tokenizer)
    for step in range(steps):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        batch = collate([encoded[i] for i in chosen], padding)
        loss = student(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    student.requires_grad_(False)
    return LanguageModel(model=student, tokenizer=host.tokenizer, name="student", content_hash="")


def sampled(lm: LanguageModel, questions: Sequence[str], *, seed: int) -> list[str]:
    """One answer at temperature 1 to each question, unprompted."""
    prompts: list[list[Message]] = [[{"role": "user", "content": question}] for question in questions]
    return generate(lm, prompts, max_new_tokens=40, temperature=1.0, seed=seed, batch_size=256)


def rank_correlation(
    x: Sequence[float], y: Sequence[float], groups: Sequence[int], *, seed: int = 0
) -> dict[str, object]:
    """Spearman's rho with a 95% interval from resampling whole datasets (``groups``), 1000 times."""
    a, b, g = np.asarray(x, float), np.asarray(y, float), np.asarray(groups)
    names, rng = np.unique(g), np.random.default_rng(seed)
    by_group = {name: np.flatnonzero(g == name) for name in names}
    draws: list[float] = []
    for _ in range(1000):
        places = np.concatenate([by_group[name] for name in rng.choice(names, len(names))])
        rho = spearman(a[places], b[places])
        if rho is not None:
            draws.append(rho)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": spearman(a, b), "low": float(low), "high": float(high), "n": len(a), "sets": len(names)}


class Clock:
    """Prints what is being done and how long the run has taken."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def say(self, text: str) -> None:
        """One line with the time since the start."""
        print(f"[{time.perf_counter() - self._start:6.1f} s] {text}", flush=True)
