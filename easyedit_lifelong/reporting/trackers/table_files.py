"""Trackers that need no other package: they write a run's scores as CSV and as JSON into its folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.reporting.trackers.flat import flatten


def _key(step: int, metrics: Mapping[str, Any]) -> tuple[int, Any]:
    """Return the key of a point. The number of edits is not enough, since it is unchanged after a failed batch."""
    return step, metrics.get("batch")


class CsvTracker:
    """Writes the scores of every scoring as a row of ``metrics.csv`` in the run's folder.

    When a score appears for the first time after the first scoring, such as one of generated answers, the file is
    written again with a new column. A point that is logged again replaces its row, so a resumed run has every row once.
    Intervals have two columns (``ERR_low``, ``ERR_high``).

    Raises:
        RunError: the file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.csv"
        self._columns: dict[str, None] = {}
        self._rows: dict[tuple[int, Any], dict[str, Any]] = {}
        self._write([])

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write a point; its row is in the file when this method returns."""
        row = {"n_edits": step, **{name: value for name, value in flatten(metrics).items() if name != "n_edits"}}
        key = _key(step, metrics)
        before = self._rows.get(key)
        if row == before:
            return
        self._rows[key] = row
        if before is None and row.keys() <= self._columns.keys():
            with reported_write_errors(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
                file.write(self._lines([row]))
            return
        self._columns |= dict.fromkeys(row)
        self._write(list(self._rows.values()))

    def close(self) -> None:
        """Do nothing, since every row is written already."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the file again, with a header and these rows."""
        header = self._lines([{name: name for name in self._columns}]) if self._columns else ""
        with reported_write_errors(self._path):
            write_text_atomically(self._path, header + self._lines(rows), newline="")

    def _lines(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return rows as lines of CSV."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, list(self._columns), restval="").writerows(rows)
        return text.getvalue()


class JsonTracker:
    """Writes the scores of every scoring to ``metrics.json`` in the run's folder, as one list of objects.

    The file is written again when 1 % of its points are new, so that N points take O(N) time, and when the run ends. It
    is never half written. ``metrics.jsonl`` always has every point. A point that is logged again replaces the earlier
    one. NaN is written as ``null``.

    Raises:
        RunError: the file can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.json"
        self._points: dict[tuple[int, Any], dict[str, Any]] = {}
        self._unwritten = 0
        self._write()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Add a point, and write the file if enough points are new."""
        self._points[_key(step, metrics)] = {"n_edits": step, **metrics}
        self._unwritten += 1
        if self._unwritten > len(self._points) // 100:
            self._write()

    def close(self) -> None:
        """Write all points that aren't written yet."""
        if self._unwritten:
            self._write()

    def _write(self) -> None:
        lines = [json.dumps(_jsonable(point), ensure_ascii=False) for point in self._points.values()]
        with reported_write_errors(self._path):
            write_text_atomically(self._path, "[\n" + ",\n".join(lines) + "\n]\n")
        self._unwritten = 0


def _jsonable(value: Any) -> Any:
    """Return a value that JSON can represent: arrays become lists, NaN and infinity None, other objects text."""

    def convert(item: Any) -> Any:
        if isinstance(item, Mapping):
            return dict(item)
        return item.tolist() if callable(getattr(item, "tolist", None)) else str(item)

    return json.loads(json.dumps(value, default=convert), parse_constant=lambda _: None)


@contextlib.contextmanager
def reported_write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system within the context into one that names the file.

    Raises:
        RunError: the file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror}. Earlier content is unchanged.") from error
