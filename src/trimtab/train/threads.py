"""How many threads compute: bit-identical results on a CPU need the same number every time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn

SMALL: Final = 20_000_000
"""Models with fewer parameters than this compute on one CPU thread: more would hardly be faster, and a sum over
threads rounds in another order, so that a run beside others (``jobs``) would end with other bits."""


def training_threads(model: nn.Module) -> int:
    """Threads to compute with: 1 for a small model on the CPU, else PyTorch's current number."""
    parameters = tuple(model.parameters())
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    small = sum(parameter.numel() for parameter in parameters) < SMALL
    return 1 if on_cpu and small else torch.get_num_threads()


@contextmanager
def fixed_threads(threads: int) -> Generator[None]:
    """Compute with ``threads`` CPU threads inside, with as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
