"""The description of the machine, and the output, that all benchmarks share."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("easyedit-lifelong", "torch", "transformers", "easyeditor")


def machine() -> dict[str, Any]:
    """Return short descriptions of the machine and the software."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def describe(facts: Mapping[str, Any]) -> str:
    """Return the result of :func:`machine` as one line."""
    where = facts["gpu"] or f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads"
    return f"{where}; torch {facts['torch']}, transformers {facts['transformers']}, Python {facts['python']}"


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def alternate(runs: int, *sides: Callable[[int], None]) -> None:
    """Run all sides alternately, ``runs`` times, so that other work on the machine slows all of them."""
    for run in range(runs):
        for side in sides if run % 2 == 0 else reversed(sides):
            side(run)


def finish(name: str, *, ours: float, theirs: float, unit: str, **more: Any) -> None:
    """Print the result as one JSON object, the last line of a benchmark's output.

    Args:
        name: the benchmark's name.
        ours: our figure, in ``unit``; smaller is better.
        theirs: the same figure of the other side.
        unit: the unit of both figures.
        **more: further keys of the JSON object.
    """
    result = {"name": name, "ratio": round(theirs / ours, 3), "ours": ours, "theirs": theirs, "unit": unit, **more}
    sys.stdout.flush()
    sys.stdout.write(json.dumps({**result, "machine": machine()}) + "\n")


def stop(problem: object) -> int:
    """Print why a benchmark can't run, and return its exit code."""
    sys.stderr.write(f"{problem}\n")
    return 2


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
