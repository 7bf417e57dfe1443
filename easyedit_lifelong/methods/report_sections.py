"""Sections that a method adds to the report of a run, as plain data, which the report draws.

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
    """What a run's folder holds, as far as a method's figures need it.

    The run may be unfinished or written by an older version: any key of an entry may be missing, or hold a value of
    another type.

    Attributes:
        method: the method's name.
        config: the run's configuration.
        hparams: the method's hyperparameters in it.
        journal: one entry per request, in order, with ``status``, ``case_id``, in batches ``batch``, and what the
            method adds.
        curve: one entry per scoring, in order: ``n_edits``, and scores and counts by name.
        steps: of each step that the run stored: the records of its edits, and the method's state without tensors.
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    hparams: Mapping[str, Any] = field(default_factory=dict)
    journal: Sequence[Mapping[str, Any]] = ()
    curve: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]] = ()

    def edits(self, name: str) -> list[tuple[int, Mapping[str, Any]]]:
        """Return (number of edits so far, journal entry) of the edits whose entry holds a number under a name."""
        made = enumerate((entry for entry in self.journal if entry.get("status") == "edited"), 1)
        return [(n, entry) for n, entry in made if is_number(entry.get(name))]

    def counts(self, name: str) -> list[Point]:
        """Return (number of edits, count) after every edit, or else at every scoring."""
        counted = self.edits(name) or [
            (entry["n_edits"], entry)
            for entry in self.curve
            if is_number(entry.get("n_edits")) and is_number(entry.get(name))
        ]
        return [(float(n), float(entry[name])) for n, entry in counted]


@dataclass(frozen=True)
class Series:
    """One series of a plot.

    Attributes:
        label: its entry in the legend; empty for none.
        points: (x, y) pairs in order; of a ``distribution`` (x, values), of a ``band`` (x, (low, high)). A series
            without points is left out.
        kind: ``line``; ``points``, which are not joined; ``distribution``: a box at each x with quartiles and with
            whiskers that reach all values, or, at more than 40 places, a band over all values and a line through their
            medians, which has the label; ``band``; ``reference``: a thin grey dotted line to compare others with.
        style: number of its colour, line and marker, from 0. Series of one plot differ by it.
        marker: ``o``, ``x``, ``.``, or empty for none; None: the one of its style.
        muted: whether it is drawn thin and in grey, as background for others.
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
        name: of its files, without an ending: letters, digits, ``-`` and ``_``. Unique in a report.
        title: the heading above it.
        caption: the sentences below it.
        alt: what it shows, for readers who cannot see it; the caption is read after it.
        y_label: label of the vertical axis.
        series: what is drawn, the first at the back.
        x_label: label of the horizontal axis, which begins at 0.
        y_axis: ``data``: as far as the values reach; ``zero``: from 0; ``positive``: from 0, but logarithmic where
            the values spread over more than a factor of 25.
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
            ValueError: it holds other characters.
        """
        _check_name(self.name)


@dataclass(frozen=True)
class ReportSection:
    """One section of a run's page.

    Attributes:
        id: its anchor in the page: letters, digits, ``-`` and ``_``. Unique in a report.
        title: its heading, and its entry in the navigation.
        plots: its figures.
        empty: the sentence that stands there if it has none; what is between backticks is set as code.
    """

    id: str
    title: str
    plots: Sequence[ReportPlot]
    empty: str

    def __post_init__(self) -> None:
        """Check the anchor.

        Raises:
            ValueError: it holds other characters.
        """
        _check_name(self.id)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError(f"{name!r} is no name of a section or plot: use letters, digits, '-' and '_'")
