"""Seconds and device memory of a call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30


class Clock:
    """Measures seconds, and the peak of device memory.

    Args:
        device: the device that the calls use.

    Attributes:
        counts_memory: whether the device reports its memory: CUDA devices do. Otherwise all amounts are 0.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.counts_memory = device, device.type == "cuda"

    def synchronise(self) -> None:
        """Wait until the device has finished."""
        if self.counts_memory:
            torch.cuda.synchronize(self.device)

    def allocated(self) -> float:
        """Return the GiB that are allocated on the device, without what is garbage."""
        gc.collect()
        return torch.cuda.memory_allocated(self.device) / GIB if self.counts_memory else 0.0

    def measure(self, call: Callable[[], Any]) -> tuple[float, float, Any]:
        """Return the seconds of a call, the GiB that it needed beyond what was allocated before, and its result."""
        self.synchronise()
        before = self.allocated()
        if self.counts_memory:
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        result = call()
        self.synchronise()
        seconds = time.perf_counter() - began
        peak = torch.cuda.max_memory_allocated(self.device) / GIB if self.counts_memory else 0.0
        return seconds, max(peak - before, 0.0), result
