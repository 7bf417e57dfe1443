"""Parts of figures: scores against the number of edits with their intervals, and axes that fit their values."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from easyedit_lifelong.methods.report_sections import EDITS
from easyedit_lifelong.reporting.report.read import Interval
from easyedit_lifelong.reporting.report.style import SIZE, legend_below, new_figure

Course = Sequence[tuple[float, float, Interval | None]]

_ROOM = 0.03


@dataclass(frozen=True)
class Plot:
    """A figure and the texts around it.

    Attributes:
        name: of its files, without an ending; unique in a report.
        title: stands above.
        caption: stands below.
        alt: what it shows, for readers who cannot see it.
        figure: the figure.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Curve:
    """One line of a figure of scores.

    Attributes:
        label: its name in the legend.
        course: number of edits, score, and the score's interval if it has one; at least one.
        look: colour, line and marker.
        before: the unedited model's score, if it is known.
    """

    label: str
    course: Course
    look: dict[str, Any]
    before: float | None = None

    def values(self) -> list[float]:
        """Return every score that the vertical axis has to show."""
        bounds = [bound for _, _, interval in self.course for bound in interval or ()]
        return [y for _, y, _ in self.course] + bounds + ([] if self.before is None else [self.before])


def courses_figure(
    curves: Sequence[Curve],
    fit: Callable[[Axes, Sequence[float]], object],
    xs: Sequence[float],
    *,
    columns: int,
    height: float = SIZE[1],
) -> Figure:
    """Draw scores against the number of edits, and dotted what they were before.

    Args:
        curves: the scores.
        fit: fits the vertical axis to values.
        xs: numbers of edits that the horizontal axis has to show.
        columns: of the legend.
        height: of the figure, in inches.
    """
    figure = new_figure(height=height)
    axes = figure.add_subplot()
    for curve in curves:
        draw_course(axes, curve.course, curve.look, curve.label)
        if curve.before is not None:
            axes.axhline(curve.before, color=curve.look["color"], linewidth=0.9, linestyle=(0, (1, 3)))
    fit_edits(axes, xs)
    fit(axes, [value for curve in curves for value in curve.values()])
    legend_below(figure, axes, columns)
    return figure


def draw_course(axes: Axes, course: Course, look: dict[str, Any], label: str) -> None:
    """Draw a score against the number of edits: a line with a band, or a point with a bar if there is one only."""
    if not course:
        return
    xs, ys, _ = zip(*course, strict=True)
    axes.plot(xs, ys, label=label, markevery=max(1, len(course) // 12), **look)
    banded = [(x, interval) for x, _, interval in course if interval is not None]
    if len(course) == 1 and banded:
        axes.vlines(xs, *banded[0][1], colors=look["color"], linewidth=1.5)
    elif len(banded) > 1:
        draw_band(axes, banded, look["color"])


def draw_band(axes: Axes, points: Sequence[tuple[float, Sequence[float]]], colour: str, label: str = "") -> None:
    """Draw a band between the lowest and the highest value at each x."""
    lows, highs = [min(values) for _, values in points], [max(values) for _, values in points]
    axes.fill_between([x for x, _ in points], lows, highs, color=colour, alpha=0.16, linewidth=0, label=label)


def levels_figure(curves: Sequence[Curve]) -> Figure:
    """Draw scores that were taken once, below each other: a mark and its interval, and hollow what it was before."""
    figure = new_figure(height=1.0 + 0.28 * len(curves))
    axes = figure.add_subplot()
    for row, curve in enumerate(curves):
        _, value, interval = curve.course[0]
        mark = {"color": curve.look["color"], "marker": curve.look["marker"], "linestyle": "none", "markersize": 6}
        if interval is not None:
            axes.hlines(row, *interval, colors=curve.look["color"], linewidth=2)
        if curve.before is not None:
            axes.plot([curve.before], [row], **{**mark, "markerfacecolor": "none"})
        axes.plot([value], [row], **mark)
    axes.set_yticks(range(len(curves)), [curve.label for curve in curves])
    axes.set_ylim(len(curves) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlim(*span([value for curve in curves for value in curve.values()]))
    return figure


def fit_edits(axes: Axes, xs: Sequence[float], label: str = EDITS) -> None:
    """Fit the horizontal axis to numbers of edits: logarithmic where they grow by factors, like 1, 10, 100."""
    axes.set_xlabel(label)
    points = sorted({x for x in xs if x > 0})
    if len(points) >= 3 and points[-1] > 6 * statistics.median(points):
        axes.set_xscale("log")
        axes.set_xlim(points[0] / 1.2, points[-1] * 1.2)
        if len(points) <= 6:
            axes.xaxis.set_major_locator(FixedLocator(points))
            axes.xaxis.set_minor_locator(NullLocator())
        _label_plainly(axes.xaxis)
        return
    end = max(xs, default=0) or 1
    axes.set_xlim(-_ROOM * end, (1 + _ROOM) * end)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def fit_scores(axes: Axes, values: Sequence[float]) -> None:
    """Fit the vertical axis: all of 0 to 1 for shares, so that any two runs compare; else what the values need."""
    axes.set_ylim(*span(values))


def span(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for scores."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= -1 and high <= 1:
        return (-_ROOM if low >= 0 else -1 - _ROOM), 1 + _ROOM
    room = 0.08 * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def fit_values(axes: Axes, values: Sequence[float], how: str, label: str) -> None:
    """Fit and label the vertical axis of what is no score, as ``ReportPlot.y_axis`` says."""
    axes.set_ylabel(label)
    if how == "data":
        return
    positive = sorted(value for value in values if value > 0)
    if how == "positive" and positive and positive[-1] > 25 * positive[len(positive) // 20]:
        axes.set_yscale("log")
        axes.set_ylabel(f"{label} (log)".strip())
        _label_plainly(axes.yaxis)
    else:
        axes.set_ylim(0, (1.05 if how == "zero" else 1.1) * (positive[-1] if positive else 1.0))


def _label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: by itself it writes formulas, which a page would show as such."""
    if not isinstance(axis.get_minor_locator(), NullLocator):
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}")
