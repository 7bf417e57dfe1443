"""The peak of the memory that a computation uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"
"""The value of Linux's ``clear_refs`` that resets the process's peak (``man 5 proc``)."""


class PeakMemory:
    """Measures the peak of memory during parts of a run.

    For a model on CUDA devices, this is the memory that torch has allocated there, the model's own included. Otherwise
    it is the resident memory of the process, which only Linux reports.

    Args:
        model: the model whose devices count.

    Attributes:
        bytes: the peak of the latest measurement; None if the system doesn't report one.
    """

    _highest: int | None = None
    """The highest peak of the process's resident memory that was reported so far, before a reset."""

    def __init__(self, model: Any) -> None:
        self.bytes: int | None = None
        parameters = getattr(model, "parameters", list)
        self._devices = sorted(
            {parameter.device.index for parameter in parameters() if parameter.device.type == "cuda"}
        )

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the peak within a context."""
        can_reset = self._reset()
        yield
        self.bytes = self._read() if can_reset else None

    def _reset(self) -> bool:
        """Set the peak to the present use; return whether that was possible."""
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        if self._devices:
            return True
        self._highest = self.process_peak()
        try:
            (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
        except OSError:
            return False
        return True

    def _read(self) -> int | None:
        """Return the peak in bytes; None if the system doesn't report it."""
        if self._devices:
            return sum(torch.cuda.max_memory_allocated(device) for device in self._devices)
        return _resident_peak()

    def process_peak(self) -> int | None:
        """Return the peak of the process's resident memory so far, in bytes; None if the system doesn't report it."""
        return max(filter(None, (self._highest, _resident_peak())), default=None)


def _resident_peak() -> int | None:
    """Return the peak of the process's resident memory since its last reset; None if the system doesn't report it."""
    with contextlib.suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
