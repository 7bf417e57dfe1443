"""Points of a run that tests log to trackers, and the values that a tracker must have recorded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import Tracker

CONFIG = {"method": "GRACE", "hparams": {"eps": 1.0, "layers": [1, 2]}}
POINTS: list[tuple[int, dict[str, Any]]] = [
    (1, {"ES": 1.0, "intervals": {"ES": [0.5, 1.0]}}),
    (2, {"ES": 0.75, "generation_match": 0.5, "note": "no number"}),
    (4, {"ES": 0.5}),
]
EXPECTED = {
    "ES": [(1, 1.0), (2, 0.75), (4, 0.5)],
    "ES_low": [(1, 0.5)],
    "ES_high": [(1, 1.0)],
    "generation_match": [(2, 0.5)],
}


def needs_module(module: str) -> Any:
    """Return a mark that skips a test where a module isn't installed."""
    installed = module in sys.modules or importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not installed, reason=f"{module} isn't installed (pip install {module})")


def create_tracker(name: str, folder: Path) -> Tracker:
    """Create the tracker of this name, for the run in a folder."""
    return get_plugins().trackers.get(name).create(folder, CONFIG)


def log_killed_and_resumed_run(name: str, folder: Path) -> None:
    """Log the points as a run does that is killed after its second point and resumed: it logs the first two again."""
    tracker = create_tracker(name, folder)
    (folder / "journal.jsonl").write_text('{"status": "edited"}\n')
    for step, metrics in POINTS[:2]:
        tracker.log(step, metrics)
    tracker.close()  # a kill leaves this out, but what an unclosed tracker loses is up to its package
    tracker = create_tracker(name, folder)
    for step, metrics in POINTS:
        tracker.log(step, metrics)
    tracker.close()


def points_by_metric(values: Iterable[tuple[str, int, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, value) of each metric, from metrics with a step and a value."""
    points: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in values:
        points.setdefault(name, []).append((step, value))
    return points
