"""Parts of figures: curves of scores against the number of edits, with intervals, and the limits of axes."""

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
from easyedit_lifelong.reporting.report.run_entries import Interval
from easyedit_lifelong.reporting.report.style import SIZE, legend_below, new_figure

ScorePoints = Sequence[tuple[float, float, Interval | None]]
"""(number of edits, score, interval of the score)."""

_MARGIN = 0.03
"""Space at the ends of an axis, as a share of its length."""


@dataclass(frozen=True)
class Plot:
    """A figure and its texts.

    Attributes:
        name: the name of its files, without an ending; unique in a report.
        title: the heading above the figure.
        caption: the text below the figure.
        alt: the alternative text, for readers who can't see the figure.
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
        points: at least one point.
        style: colour, line and marker, as options of ``Axes.plot``.
        before: the unedited model's score, if known.
    """

    label: str
    points: ScorePoints
    style: dict[str, Any]
    before: float | None = None

    def values(self) -> list[float]:
        """Return all values that the axis of scores must include."""
        bounds = [bound for _, _, interval in self.points for bound in interval or ()]
        return [y for _, y, _ in self.points] + bounds + ([] if self.before is None else [self.before])


def curves_figure(
    curves: Sequence[Curve],
    fit: Callable[[Axes, Sequence[float]], object],
    xs: Sequence[float],
    *,
    columns: int,
    height: float = SIZE[1],
) -> Figure:
    """Draw scores against the number of edits, and the scores of the unedited model as dotted lines.

    Args:
        curves: the curves to draw.
        fit: sets the limits of the vertical axis for given values.
        xs: numbers of edits that the horizontal axis must include.
        columns: number of columns of the legend.
        height: height of the figure, in inches.
    """
    figure = new_figure(height=height)
    axes = figure.add_subplot()
    for curve in curves:
        draw_curve(axes, curve.points, curve.style, curve.label)
        if curve.before is not None:
            axes.axhline(curve.before, color=curve.style["color"], linewidth=0.9, linestyle=(0, (1, 3)))
    fit_edits(axes, xs)
    fit(axes, [value for curve in curves for value in curve.values()])
    legend_below(figure, axes, columns)
    return figure


def draw_curve(axes: Axes, points: ScorePoints, style: dict[str, Any], label: str) -> None:
    """Draw a score against the number of edits: a line with a band of intervals, or a single point with a bar."""
    if not points:
        return
    xs, ys, _ = zip(*points, strict=True)
    axes.plot(xs, ys, label=label, markevery=max(1, len(points) // 12), **style)
    intervals = [(x, interval) for x, _, interval in points if interval is not None]
    if len(points) == 1 and intervals:
        axes.vlines(xs, *intervals[0][1], colors=style["color"], linewidth=1.5)
    elif len(intervals) > 1:
        draw_band(axes, intervals, style["color"])


def draw_band(axes: Axes, points: Sequence[tuple[float, Sequence[float]]], colour: str, label: str = "") -> None:
    """Draw a band from the lowest to the highest value at each x."""
    lows, highs = [min(values) for _, values in points], [max(values) for _, values in points]
    axes.fill_between([x for x, _ in points], lows, highs, color=colour, alpha=0.16, linewidth=0, label=label)


def dot_plot(curves: Sequence[Curve]) -> Figure:
    """Draw scores of a single scoring, one per row: a mark with its interval; a hollow mark for the unedited model."""
    figure = new_figure(height=1.0 + 0.28 * len(curves))
    axes = figure.add_subplot()
    for row, curve in enumerate(curves):
        _, score, interval = curve.points[0]
        mark = {"color": curve.style["color"], "marker": curve.style["marker"], "linestyle": "none", "markersize": 6}
        if interval is not None:
            axes.hlines(row, *interval, colors=curve.style["color"], linewidth=2)
        if curve.before is not None:
            axes.plot([curve.before], [row], **{**mark, "markerfacecolor": "none"})
        axes.plot([score], [row], **mark)
    axes.set_yticks(range(len(curves)), [curve.label for curve in curves])
    axes.set_ylim(len(curves) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlim(*axis_limits([value for curve in curves for value in curve.values()]))
    return figure


def fit_edits(axes: Axes, xs: Sequence[float], label: str = EDITS) -> None:
    """Set the limits of the horizontal axis; it is logarithmic if the numbers of edits grow by factors (1, 10, 100)."""
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
    axes.set_xlim(-_MARGIN * end, (1 + _MARGIN) * end)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def fit_scores(axes: Axes, values: Sequence[float]) -> None:
    """Set the limits of the vertical axis: always 0 to 1 for shares, so that runs are comparable; else the range."""
    axes.set_ylim(*axis_limits(values))


def axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the limits of an axis for scores."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= -1 and high <= 1:
        return (-_MARGIN if low >= 0 else -1 - _MARGIN), 1 + _MARGIN
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def fit_values(axes: Axes, values: Sequence[float], y_axis: str, label: str) -> None:
    """Set the limits and the label of a vertical axis of values that aren't scores.

    Args:
        axes: the axes.
        values: the values that the axis must include.
        y_axis: ``data``, ``zero`` or ``positive``, as in ``ReportPlot.y_axis``.
        label: the label.
    """
    axes.set_ylabel(label)
    if y_axis == "data":
        return
    positive = sorted(value for value in values if value > 0)
    if y_axis == "positive" and positive and positive[-1] > 25 * positive[len(positive) // 20]:
        axes.set_yscale("log")
        axes.set_ylabel(f"{label} (log)".strip())
        _label_plainly(axes.yaxis)
    else:
        axes.set_ylim(0, (1.05 if y_axis == "zero" else 1.1) * (positive[-1] if positive else 1.0))


def _label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers; matplotlib's default is formulas, which an SVG shows as source."""
    if not isinstance(axis.get_minor_locator(), NullLocator):
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}")
