"""The peak of memory is that of the measured part alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from easyedit_lifelong.runs import peak_memory
from easyedit_lifelong.runs.peak_memory import PeakMemory

MEGABYTE = 1_000_000


IN_A_NEW_PROCESS = """
import torch
from easyedit_lifelong.runs.peak_memory import PeakMemory

memory = PeakMemory(torch.nn.Linear(2, 2))
for megabytes in (0, 200, 0):
    with memory.measured():
        torch.ones(megabytes * 250_000)
    print(memory.bytes)
"""


def test_a_peak_before_the_measurement_does_not_count() -> None:
    """In a new process, since freed memory that a process keeps would hide an allocation."""
    result = subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=True)
    if "None" in result.stdout:
        pytest.skip("this system doesn't report the peak")
    least, peak, after = map(int, result.stdout.split())
    assert peak > least + 150 * MEGABYTE
    assert after < least + 100 * MEGABYTE


def test_without_a_report_of_the_system_the_peak_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "_PROCESS", tmp_path / "missing")
    memory = PeakMemory(torch.nn.Linear(2, 2))
    with memory.measured():
        pass
    assert memory.bytes is None
