"""``python -m bench``: measure everything, print it, write ``bench/results.json``."""

from __future__ import annotations

import torch

from bench import passes, processes
from bench.measure import write

if __name__ == "__main__":
    torch.set_num_threads(1)
    write(
        [
            *passes.forecast_passes(),
            *passes.whole_forecast(),
            *passes.control_overhead(),
            *processes.start_up(),
            *processes.peak_memory(),
        ]
    )
