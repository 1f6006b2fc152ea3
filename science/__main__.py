"""``python -m science [NAME …]``: run all experiments, or the named ones."""

from __future__ import annotations

import sys

import torch

from science import directions, forecast_outcome, unnamed

EXPERIMENTS = {"directions": directions.run, "unnamed": unnamed.run, "forecast_outcome": forecast_outcome.run}

if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(EXPERIMENTS)
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        sys.exit(f"unknown experiment {', '.join(unknown)}; there are: {', '.join(EXPERIMENTS)}")
    for name in names:
        print(f"== {name}: {EXPERIMENTS[name].__module__}")
        EXPERIMENTS[name]()
