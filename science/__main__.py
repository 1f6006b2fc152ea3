"""``python -m science [NAME …]``: run all experiments but the very long ones, or the named ones."""

from __future__ import annotations

import sys

import torch

from science import (
    best_of,
    directions,
    doubt,
    forecast_outcome,
    lab_recipe,
    labels,
    lenses,
    manifolds,
    obfuscation_map,
    surfacing,
    tier_chart,
    unnamed,
)

EXPERIMENTS = {
    "directions": directions.run,
    "lenses": lenses.run,
    "manifolds": manifolds.run,
    "labels": labels.run,
    "tier_chart": tier_chart.run,
    "surfacing": surfacing.run,
    "unnamed": unnamed.run,
    "forecast_outcome": forecast_outcome.run,
    "best_of": best_of.run,
    "doubt": doubt.run,
    "obfuscation_map": obfuscation_map.run,
    "lab_recipe": lab_recipe.run,
}
ON_REQUEST = {"lab_recipe", "obfuscation_map"}
"""Named only: they take more than half an hour."""

if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[1:] or [name for name in EXPERIMENTS if name not in ON_REQUEST]
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        sys.exit(f"unknown experiment {', '.join(unknown)}; there are: {', '.join(EXPERIMENTS)}")
    for name in names:
        print(f"== {name}: {EXPERIMENTS[name].__module__}")
        EXPERIMENTS[name]()
