"""``python -m bench [PART …]``: measure everything, or the named parts; print it; write ``bench/results.json``."""

from __future__ import annotations

import sys

import torch

from bench import capture, monitor, passes, probes, processes, reward, sae
from bench.measure import write

PARTS = {
    "passes": passes.forecast_passes,
    "forecast": passes.whole_forecast,
    "controls": passes.control_overhead,
    "start": processes.start_up,
    "memory": processes.peak_memory,
    "capture": capture.capture_passes,
    "store": capture.capture_to_disk,
    "probes": probes.probe_sweep,
    "sae": sae.sae_training,
    "monitor": monitor.monitored_generation,
    "reward": reward.reward_costs,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        sys.exit(f"unknown part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    for name in names:
        write(PARTS[name]())
