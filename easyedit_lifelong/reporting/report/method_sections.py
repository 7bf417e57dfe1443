"""The sections that a method adds to the page of a run: asks the method for them and draws their plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from matplotlib.axes import Axes

from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, Series
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.report.axes import Plot, draw_band, fit_edits, fit_values
from easyedit_lifelong.reporting.report.history import thinned
from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.style import MUTED, legend_below, look, new_figure

_MOST_BOXES = 40
_MANY_POINTS = 150
"""Points of one plot from which on they are drawn smaller."""

T = TypeVar("T")


@dataclass(frozen=True)
class DrawnSection:
    """A section whose plots are drawn; see :class:`ReportSection`."""

    id: str
    title: str
    empty: str
    plots: list[Plot]


def draw_sections(run: Run) -> list[DrawnSection]:
    """Return the sections of the method that made a run, drawn.

    There are none if the method is not installed or has none, or if its code fails, which is noted.
    """

    def draw(section: ReportSection) -> list[DrawnSection]:
        return [DrawnSection(section.id, section.title, section.empty, [draw_plot(plot) for plot in section.plots])]

    return _from_method(run, draw)


def plots_to_compare(run: Run) -> list[ReportPlot]:
    """Return the plots of a run's method that can be compared with those of other runs."""
    return _from_method(run, lambda section: [p for p in section.plots if p.comparison and p.series[0].points])


def _from_method(run: Run, use: Callable[[ReportSection], Sequence[T]]) -> list[T]:
    methods = get_plugins().methods
    port = methods.get(run.method_name).report_sections if run.method_name in methods else None
    if port is None:
        return []
    try:
        return [result for section in port(run.record()) for result in use(section)]
    except Exception as error:  # anything can come out of a plugin's code, and a report shows the rest
        run.notes.append(f"The figures of {run.method_name} can't be drawn: {type(error).__name__}: {error}")
        return []


def draw_plot(plot: ReportPlot) -> Plot:
    """Draw a plot. To be called while :func:`drawing`."""
    figure = new_figure()
    axes = figure.add_subplot()
    several = [series for series in plot.series if series.points]
    clouds = [series for series in several if series.kind == "points" and not series.muted]
    crowded = sum(len(series.points) for series in clouds) > _MANY_POINTS
    for series in several:
        _DRAW[series.kind](axes, series, _style(series, crowded))
    ends = [x + (0.5 if series.kind == "distribution" else 0) for series in several for x, _ in series.points]
    fit_edits(axes, [0, max(ends, default=0)], plot.x_label)
    fit_values(axes, [y for series in several for y in _heights(series)], plot.y_axis, plot.y_label)
    legend_below(figure, axes)
    return Plot(plot.name, plot.title, plot.caption, ". ".join(filter(None, (plot.alt, plot.caption))), figure)


def _heights(series: Series) -> list[float]:
    """Return every value that the vertical axis has to show."""
    nested = series.kind in ("distribution", "band")
    return [value for _, y in series.points for value in (y if nested else [y])]


def _style(series: Series, crowded: bool) -> dict[str, Any]:
    """Return colour, line and marker of a series."""
    if series.kind == "reference":
        return {"color": MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
    style: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "alpha": 0.7} if series.muted else look(series.style)
    if series.kind == "points" and series.muted:
        style |= {"linestyle": "none", "markersize": 3.5, "alpha": 0.6}
    elif series.kind == "points":
        style |= {"linestyle": "none", "markersize": 2.5 if crowded else 4.5, "markeredgewidth": 0}
    return style if series.marker is None else {**style, "marker": series.marker}


def _draw_line(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    axes.plot(*zip(*series.points, strict=True), label=series.label, **style)


def _draw_points(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    axes.plot(*zip(*thinned(series.points), strict=True), label=series.label, **style)


def _draw_band(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    draw_band(axes, series.points, style["color"], series.label)


def _draw_distribution(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    places, values = zip(*((x, sorted(several)) for x, several in series.points), strict=True)
    if len(places) > _MOST_BOXES:
        draw_band(axes, series.points, style["color"])
        axes.plot(places, [v[len(v) // 2] for v in values], color=style["color"], label=series.label)
        return
    line = {"color": style["color"], "linewidth": 1.1}
    axes.boxplot(
        values, positions=places, widths=0.6, manage_ticks=False, whis=(0, 100), boxprops=line, whiskerprops=line,
        capprops=line, medianprops={**line, "linewidth": 2.2},
    )  # fmt: skip


_DRAW: dict[str, Callable[[Axes, Series, dict[str, Any]], None]] = {
    "line": _draw_line,
    "reference": _draw_line,
    "points": _draw_points,
    "band": _draw_band,
    "distribution": _draw_distribution,
}
