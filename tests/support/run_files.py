"""Files of a run, read for comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the durations and the use of memory: two equal runs differ in them."""
    return [
        {name: value for name, value in entry.items() if "seconds" not in name and name != "peak_memory"}
        for entry in entries
    ]


def bytes_of_files(folder: Path) -> dict[str, bytes | None]:
    """Read all files directly in a folder, to see later whether any has changed; None stands for a folder."""
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def select(scores: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Select some of a run's scores; None stands for a missing one."""
    return {name: scores.get(name) for name in names}
