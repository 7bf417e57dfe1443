"""The result trackers that come with this package."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.registry import TrackerType


class CsvTracker:
    """Writes the scores of every evaluation to ``metrics.csv`` in the run's folder.

    The columns are those of the first evaluation; scores that only the last one has (free
    generation) are in ``metrics.jsonl`` and ``summary.json``.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.csv").open("w", newline="", encoding="utf-8")
        self._writer: csv.DictWriter[str] | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one row."""
        row = {"n_edits": step, **metrics}
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), extrasaction="ignore")
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@hookimpl
def register_trackers(register: Callable[[TrackerType], None]) -> None:
    """Register the CSV tracker."""
    register(TrackerType("csv", lambda folder, config: CsvTracker(folder), "metrics.csv in the run's folder"))
