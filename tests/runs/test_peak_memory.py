"""The peak of memory is that of the measured part alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from easyedit_lifelong.runs import peak_memory
from easyedit_lifelong.runs.peak_memory import PeakMemory

MEGABYTE = 1_000_000


def touch(megabytes: int) -> None:
    """Use memory and release it."""
    torch.ones(megabytes * MEGABYTE // 4)


def test_a_peak_before_the_measurement_does_not_count() -> None:
    memory = PeakMemory(torch.nn.Linear(2, 2))
    with memory.measured():
        pass
    if memory.bytes is None:
        pytest.skip("this system doesn't report the peak")
    least = memory.bytes
    with memory.measured():
        touch(200)
    assert memory.bytes > least + 150 * MEGABYTE
    with memory.measured():
        pass
    assert memory.bytes < least + 100 * MEGABYTE


def test_without_a_report_of_the_system_the_peak_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "missing")
    memory = PeakMemory(torch.nn.Linear(2, 2))
    with memory.measured():
        touch(1)
    assert memory.bytes is None
