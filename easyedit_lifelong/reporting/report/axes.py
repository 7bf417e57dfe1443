"""Parts of figures: a score's course with its interval, and axes that fit what is on them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from easyedit_lifelong.reporting.report.read import Interval

Course = Sequence[tuple[float, float, Interval | None]]

EDITS = "number of edits"
_ROOM = 0.03


@dataclass(frozen=True)
class Plot:
    """A figure and what is said about it.

    Attributes:
        name: of its files, without an ending; unique in a report.
        title: stands above.
        caption: stands below.
        alt: what it shows, for those who can't see it.
        figure: the figure.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


@dataclass(frozen=True)
class Level:
    """A score that was taken once.

    Attributes:
        name: what stands beside it.
        value: the score.
        interval: its interval, if it has one.
        before: the unedited model's score, if it is known.
        look: colour and marker.
    """

    name: str
    value: float
    interval: Interval | None
    before: float | None
    look: dict[str, Any]


def draw_course(axes: Axes, course: Course, look: dict[str, Any], label: str) -> None:
    """Draw a score against the number of edits: a line with a band, or a point with a bar if there is one only."""
    if not course:
        return
    xs, ys = [x for x, _, _ in course], [y for _, y, _ in course]
    every = max(1, len(course) // 12)
    axes.plot(xs, ys, label=label, markevery=every, **look)
    banded = [(x, interval) for x, _, interval in course if interval is not None]
    if len(course) == 1 and banded:
        low, high = banded[0][1]
        axes.vlines(xs, low, high, colors=look["color"], linewidth=1.5)
    elif len(banded) > 1:
        low_edge, high_edge = [pair[0] for _, pair in banded], [pair[1] for _, pair in banded]
        axes.fill_between(
            [x for x, _ in banded], low_edge, high_edge, color=look["color"], alpha=0.16, linewidth=0
        )  # fmt: skip


def draw_levels(axes: Axes, levels: Sequence[Level]) -> None:
    """Draw scores that were taken once, one under the other: a mark and its interval, and what was before hollow."""
    for row, level in enumerate(levels):
        mark = {"color": level.look["color"], "marker": level.look["marker"], "linestyle": "none", "markersize": 6}
        if level.interval is not None:
            axes.hlines(row, *level.interval, colors=level.look["color"], linewidth=2)
        if level.before is not None:
            axes.plot([level.before], [row], **{**mark, "markerfacecolor": "none"})
        axes.plot([level.value], [row], **mark)
    axes.set_yticks(range(len(levels)), [level.name for level in levels])
    axes.set_ylim(len(levels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    values = [x for level in levels for x in (level.value, level.before, *(level.interval or ())) if x is not None]
    axes.set_xlim(*span(values))


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


def fit_positive(axes: Axes, values: Sequence[float]) -> bool:
    """Fit the vertical axis to values that aren't negative; return whether it became logarithmic."""
    positive = sorted(value for value in values if value > 0)
    if positive and positive[-1] > 25 * positive[len(positive) // 20]:
        axes.set_yscale("log")
        _label_plainly(axes.yaxis)
        return True
    axes.set_ylim(0, 1.1 * (positive[-1] if positive else 1.0))
    return False


def _label_plainly(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: by itself it writes formulas, which a page would show as such."""
    if not isinstance(axis.get_minor_locator(), NullLocator):
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: f"{value:g}")


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence says them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
