"""Trackers that need nothing: a run's curve as CSV and as JSON, in its folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.reporting.trackers.flat import flat

_LAG = 100


def _key(step: int, metrics: Mapping[str, Any]) -> tuple[int, Any]:
    """Return what makes a point a point: batches that all fail leave the number of edits as it was."""
    return step, metrics.get("batch")


class CsvTracker:
    """Writes the scores of every evaluation to ``metrics.csv`` in the run's folder, a row each.

    Scores that come later than the first evaluation (free generation, say) bring their columns along: the file
    is written anew, with empty cells above. A point that is logged again takes the place of its row, so a resumed
    run has every row once. Confidence intervals have columns of their own (``ERR_low``, ``ERR_high``).

    Raises:
        RunError: the file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.csv"
        self._columns: dict[str, None] = {}
        self._rows: dict[tuple[int, Any], dict[str, Any]] = {}
        self._write([])

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Enter a point; its row is in the file when this returns."""
        row = {"n_edits": step, **{name: value for name, value in flat(metrics).items() if name != "n_edits"}}
        key = _key(step, metrics)
        before = self._rows.get(key)
        if row == before:
            return
        self._rows[key] = row
        if before is None and row.keys() <= self._columns.keys():
            with writing(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                file.write(self._lines([row]))
            return
        self._columns |= dict.fromkeys(row)
        self._write(list(self._rows.values()))

    def close(self) -> None:
        """Do nothing: every row is in the file already."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        header = self._lines([{name: name for name in self._columns}]) if self._columns else ""
        with writing(self._path):
            replace_text(self._path, header + self._lines(rows), newline="")

    def _lines(self, rows: Sequence[Mapping[str, Any]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, list(self._columns), restval="").writerows(rows)
        return text.getvalue()


class JsonTracker:
    """Writes the scores of every evaluation to ``metrics.json`` in the run's folder: one list of objects.

    The file is whole at any time. Of a long run it is written anew only when a hundredth of its points are new
    (so that N points cost O(N)) and when the run ends; ``metrics.jsonl`` has every point at once. A point that
    is logged again replaces the first. A score that is no number (NaN) is ``null``.

    Raises:
        RunError: the file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.json"
        self._points: dict[tuple[int, Any], dict[str, Any]] = {}
        self._unwritten = 0
        self._write()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Enter a point."""
        self._points[_key(step, metrics)] = {"n_edits": step, **metrics}
        self._unwritten += 1
        if self._unwritten > len(self._points) // _LAG:
            self._write()

    def close(self) -> None:
        """Write what isn't written yet."""
        if self._unwritten:
            self._write()

    def _write(self) -> None:
        lines = [json.dumps(_jsonable(point), ensure_ascii=False) for point in self._points.values()]
        with writing(self._path):
            replace_text(self._path, "[\n" + ",\n".join(lines) + "\n]\n")
        self._unwritten = 0


def _jsonable(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, numbers that are not finite as None, anything else as text."""

    def convert(other: Any) -> Any:
        if isinstance(other, Mapping):
            return dict(other)
        return other.tolist() if callable(getattr(other, "tolist", None)) else str(other)

    return json.loads(json.dumps(value, default=convert), parse_constant=lambda _: None)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of a file that can't be written which one it is.

    Raises:
        RunError: it can't be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror}. What was written stays.") from error
