"""The figures of a comparison: one for each score, with all runs and the same axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import EDITS, Point, ReportPlot
from easyedit_lifelong.reporting.report import history
from easyedit_lifelong.reporting.report.axes import Curve, Plot, curves_figure, dot_plot, fit_scores, fit_values
from easyedit_lifelong.reporting.report.method_sections import method_sections
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import main_names, shown
from easyedit_lifelong.reporting.report.style import series_style

MAX_BANDS = 6
"""With more curves than this in a figure, intervals would hide the curves: the tables have them."""


def comparison_plots(runs: Sequence[RunFiles], names: Sequence[str]) -> tuple[list[Plot], list[Plot]]:
    """Return the figures of runs.

    Returns:
        The figures of the main scores, of the plots of the runs' methods and of the time per edit; and those of all
        other scores.
    """
    scored = list(dict.fromkeys(name for run in runs for name in run.scored_names()))
    main = main_names(runs)
    metrics = [name for name in main if name in scored]
    others = [name for name in scored if name not in main and _is_worth_a_figure(name, runs, metrics)]
    end = max((x for run in runs for name in scored for x, _, _ in run.points(name)), default=0)
    figures = [_score_plot(runs, names, metric, end) for metric in metrics]
    return (
        [*figures, *_method_plots(runs, names), *_seconds_plots(runs, names)],
        [_score_plot(runs, names, metric, end) for metric in others],
    )


def _is_worth_a_figure(name: str, runs: Sequence[RunFiles], others: Sequence[str]) -> bool:
    """Return whether a score is neither a count, nor of the unedited model, nor equal to another score in a figure."""
    if name.endswith("_before") or runs[0].kind(name) == "count":
        return False
    return not any(all(run.points(name) == run.points(other) for run in runs) for other in others)


def _score_plot(runs: Sequence[RunFiles], names: Sequence[str], metric: str, end: float) -> Plot:
    """Return the figure of one score.

    Args:
        runs: the runs.
        names: their names.
        metric: the name of the score.
        end: the largest number of edits of all runs.
    """
    points = {number: scored for number, run in enumerate(runs) if (scored := run.points(metric))}
    caption = f"{METRICS[metric].meaning}." if metric in METRICS else ""
    last = "; ".join(f"{names[n]} {shown(scored[-1][1], metric)} at {scored[-1][0]}" for n, scored in points.items())
    once = all(len(scored) == 1 for scored in points.values())
    curves = [
        Curve(names[n], scored, series_style(n), runs[n].scores().get(f"{metric}_before") if once else None)
        for n, scored in points.items()
    ]
    if once:
        caption += " Scored once in each run."
        caption += " Hollow marks: the unedited model." if any(curve.before is not None for curve in curves) else ""
        figure = dot_plot(curves)
    else:
        if len(curves) > MAX_BANDS:
            curves = [replace(curve, points=[(x, y, None) for x, y, _ in curve.points]) for curve in curves]
        figure = _curves_figure(curves, fit_scores, [0.0, end, *(x for curve in curves for x, _, _ in curve.points)])
    return Plot(f"compare-{metric}", metric, caption, f"{metric} against {EDITS}: {last}", figure)


def _method_plots(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Plot]:
    """Return a figure for each plot of the runs' methods that has a comparison, with the first series of each run."""
    by_name: dict[str, dict[int, ReportPlot]] = {}
    for number, run in enumerate(runs):
        for plot in (plot for section, _ in method_sections(run) for plot in section.plots):
            if plot.comparison and plot.series[0].points:
                by_name.setdefault(plot.name, {})[number] = plot
    figures = []
    for name, plots in by_name.items():
        first = next(iter(plots.values()))
        lines = {number: plot.series[0].points for number, plot in plots.items()}
        last = "; ".join(f"{names[number]} {points[-1][1]:g}" for number, points in lines.items())
        figure = _lines(lines, names, partial(fit_values, y_axis=first.y_axis, label=""))
        figures.append(Plot(f"compare-{name}", first.comparison, "", f"{first.alt}, in the end: {last}", figure))
    return figures


def _seconds_plots(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Plot]:
    """Return the figure of the time that each edit took, if known."""
    seconds = {number: points for number, run in enumerate(runs) if (points := history.edit_seconds(run))}
    if not seconds:
        return []
    lines = {n: history.running_median(points) if len(points) >= 5 else points for n, points in seconds.items()}
    last = "; ".join(f"{names[number]} {points[-1][1]:.2f}" for number, points in seconds.items())
    caption = "Running medians. Compare only runs on the same machine."
    figure = _lines(lines, names, partial(fit_values, y_axis="positive", label="seconds"))
    alt = f"Seconds of each edit, at the end: {last}"
    return [Plot("compare-seconds", "Wall seconds of each edit", caption, alt, figure)]


def _lines(
    lines: Mapping[int, Sequence[Point]], names: Sequence[str], fit: Callable[[Axes, Sequence[float]], None]
) -> Figure:
    """Draw one line for each run.

    Args:
        lines: the points of each run, by the run's number.
        names: the names of all runs.
        fit: sets the limits of the vertical axis for given values.
    """
    curves = [
        Curve(names[number], [(x, y, None) for x, y in history.thinned(points)], series_style(number))
        for number, points in lines.items()
    ]
    return _curves_figure(curves, fit, [0, *(points[-1][0] for points in lines.values())])


def _curves_figure(
    curves: Sequence[Curve], fit: Callable[[Axes, Sequence[float]], None], xs: Sequence[float]
) -> Figure:
    """Draw curves in a figure with enough height for the legend."""
    longest = max(len(curve.label) for curve in curves)
    columns = 3 if longest <= 12 else 2 if longest <= 26 else 1
    return curves_figure(curves, fit, xs, columns=columns, height=2.75 + 0.19 * -(-len(curves) // columns))
