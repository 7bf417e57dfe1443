"""The sections that a method adds to the report of a run, as data. The report draws them.

A method returns :class:`ReportSection` objects from its ``report_sections`` port
(:class:`~easyedit_lifelong.methods.base.EditMethod`), given a :class:`RunRecord`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

EDITS = "number of edits"
"""Label of a horizontal axis that counts edits."""

Point = tuple[float, float]


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder that a method's figures can use.

    The run may be unfinished, or written by an older version: any key of an entry may be missing or hold a value of
    another type.

    Attributes:
        method: the method's name.
        config: the run's configuration.
        hparams: the method's hyperparameters in that configuration.
        journal: one entry per request, in order: ``status``, ``case_id``, ``batch`` (consecutive editing only), and
            fields that the method adds.
        curve: one entry per scoring, in order: ``n_edits``, and scores and counts by name.
        steps: for each stored step, the records of its edits, and the method's state without tensors.
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    journal: Sequence[Mapping[str, Any]] = ()
    curve: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]] = ()

    def edits(self, name: str) -> list[tuple[int, Mapping[str, Any]]]:
        """Return the journal entries of the edits that have a number in a field.

        Args:
            name: the name of the field.

        Returns:
            Pairs of the number of edits so far, and the entry.
        """
        edited = [entry for entry in self.journal if entry.get("status") == "edited"]
        return [(n_edits, entry) for n_edits, entry in enumerate(edited, 1) if is_number(entry.get(name))]

    def counts(self, name: str) -> list[Point]:
        """Return a count over time: after every edit if the journal has it, otherwise at every scoring.

        Args:
            name: the name of the field that holds the count.

        Returns:
            Pairs of the number of edits so far, and the count.
        """
        entries = self.edits(name) or [
            (entry["n_edits"], entry)
            for entry in self.curve
            if is_number(entry.get("n_edits")) and is_number(entry.get(name))
        ]
        return [(float(n_edits), float(entry[name])) for n_edits, entry in entries]


@dataclass(frozen=True)
class Series:
    """One series of a plot.

    Attributes:
        label: the entry in the legend; empty for none.
        points: (x, y) pairs in order; (x, values) for a ``distribution``, (x, (low, high)) for a ``band``. A series
            without points is left out.
        kind: ``line``; ``points``: without a line; ``distribution``: a box plot at each x, with whiskers to the least
            and the greatest value (for more than 40 points: a band over all values, and a line through the medians,
            which has the label); ``band``; ``reference``: a thin grey dotted line.
        style: index of the series' colour, line and marker, counted from 0. It should differ within a plot.
        marker: ``o``, ``x``, ``.``, or empty for none; None for the marker of ``style``.
        muted: whether to draw the series thin and grey, as a background.
    """

    label: str
    points: Sequence[tuple[float, Any]]
    kind: Literal["line", "points", "distribution", "band", "reference"] = "line"
    style: int = 0
    marker: str | None = None
    muted: bool = False


@dataclass(frozen=True)
class ReportPlot:
    """One figure of a section.

    Attributes:
        name: name of its files, without an extension: letters, digits, ``-`` and ``_``. Unique in a report.
        title: the heading above the figure.
        caption: the sentences below the figure.
        alt: the alternative text for readers who cannot see the figure; a screen reader reads the caption after it.
        y_label: label of the vertical axis.
        series: the series to draw, from back to front.
        x_label: label of the horizontal axis, which begins at 0.
        y_axis: range of the vertical axis. ``data``: the range of the values; ``zero``: from 0; ``positive``: from 0,
            or logarithmic if the values differ by more than a factor of 25.
        comparison: title of the figure that compares the plot's first series across runs; empty for none.
    """

    name: str
    title: str
    caption: str
    alt: str
    y_label: str
    series: Sequence[Series]
    x_label: str = EDITS
    y_axis: Literal["data", "zero", "positive"] = "data"
    comparison: str = ""

    def __post_init__(self) -> None:
        """Check the name, which becomes a file name.

        Raises:
            ValueError: the name holds other characters.
        """
        _check_name(self.name)


@dataclass(frozen=True)
class ReportSection:
    """One section of a run's page.

    Attributes:
        id: the section's anchor in the page: letters, digits, ``-`` and ``_``. Unique in a report.
        title: the heading, which is also the entry in the navigation.
        plots: the figures.
        empty: the sentence to show if there are no figures. Text between backticks is set as code.
    """

    id: str
    title: str
    plots: Sequence[ReportPlot]
    empty: str

    def __post_init__(self) -> None:
        """Check the anchor.

        Raises:
            ValueError: the anchor holds other characters.
        """
        _check_name(self.id)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _check_name(name: str) -> None:
    """Check that a name consists of letters, digits, ``-`` and ``_``.

    Raises:
        ValueError: it has other characters, or is empty.
    """
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError(f"{name!r} is no name of a section or plot: use letters, digits, '-' and '_'")
