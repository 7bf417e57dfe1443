"""The sections that a method adds to the page of a run: get them from the method and draw their plots."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, Series
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.report.axes import Plot, draw_band, fit_edits, fit_values
from easyedit_lifelong.reporting.report.history import thinned
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.style import MUTED, legend_below, new_figure, series_style

_MAX_BOXES = 40
_MANY_POINTS = 150
"""If a plot has more points than this, they are drawn smaller."""


def method_sections(run: RunFiles) -> list[tuple[ReportSection, list[Plot]]]:
    """Return the sections of the run's method, with their plots. Call this function within :func:`figure_options`.

    The result is empty if the method isn't installed or has no sections. It is also empty if the method's code fails;
    then a note is added to the run.
    """
    port = get_plugins().report_sections(run.method_name)
    if port is None:
        return []
    try:
        return [(section, [draw_plot(plot) for plot in section.plots]) for section in port(run.record())]
    except Exception as error:  # a plugin's code can raise anything; the rest of the report is still shown
        run.notes.append(f"The figures of {run.method_name} can't be drawn: {type(error).__name__}: {error}")
        return []


def draw_plot(plot: ReportPlot) -> Plot:
    """Draw a plot of a method's section. Call this function within :func:`figure_options`."""
    figure = new_figure()
    axes = figure.add_subplot()
    nonempty = [series for series in plot.series if series.points]
    scatter = [series for series in nonempty if series.kind == "points" and not series.muted]
    crowded = sum(len(series.points) for series in scatter) > _MANY_POINTS
    values: list[float] = []
    for series in nonempty:
        style = _style(series, crowded)
        if series.kind == "distribution":
            _draw_distribution(axes, series, style["color"])
        elif series.kind == "band":
            draw_band(axes, series.points, style["color"], series.label)
        else:
            points = thinned(series.points) if series.kind == "points" else series.points
            axes.plot(*zip(*points, strict=True), label=series.label, **style)
        has_several_values = series.kind in ("distribution", "band")
        values += [value for _, y in series.points for value in (y if has_several_values else [y])]
    ends = [x + (0.5 if series.kind == "distribution" else 0) for series in nonempty for x, _ in series.points]
    fit_edits(axes, [0, max(ends, default=0)], plot.x_label)
    fit_values(axes, values, plot.y_axis, plot.y_label)
    legend_below(figure, axes)
    return Plot(plot.name, plot.title, plot.caption, ". ".join(filter(None, (plot.alt, plot.caption))), figure)


def _style(series: Series, crowded: bool) -> dict[str, Any]:
    """Return colour, line and marker of a series, as options of ``Axes.plot``."""
    if series.kind == "reference":
        return {"color": MUTED, "linewidth": 1, "linestyle": (0, (1, 2))}
    style: dict[str, Any] = (
        {"color": MUTED, "linewidth": 0.9, "alpha": 0.7} if series.muted else series_style(series.style)
    )
    if series.kind == "points" and series.muted:
        style |= {"linestyle": "none", "markersize": 3.5, "alpha": 0.6}
    elif series.kind == "points":
        style |= {"linestyle": "none", "markersize": 2.5 if crowded else 4.5, "markeredgewidth": 0}
    return style if series.marker is None else {**style, "marker": series.marker}


def _draw_distribution(axes: Axes, series: Series, colour: str) -> None:
    """Draw a box plot at each x; if there are too many, a band and a line of the medians."""
    xs, values = zip(*series.points, strict=True)
    if len(xs) > _MAX_BOXES:
        draw_band(axes, series.points, colour)
        medians = [sorted(values_at_x)[len(values_at_x) // 2] for values_at_x in values]
        axes.plot(xs, medians, color=colour, label=series.label)
        return
    line = {"color": colour, "linewidth": 1.1}
    axes.boxplot(
        values,
        positions=xs,
        widths=0.6,
        manage_ticks=False,
        whis=(0, 100),
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={**line, "linewidth": 2.2},
    )
