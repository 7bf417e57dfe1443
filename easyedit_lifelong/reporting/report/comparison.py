"""The figures of several runs side by side: one for each score, all on the same axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import EDITS, Point, ReportPlot
from easyedit_lifelong.reporting.report import history
from easyedit_lifelong.reporting.report.axes import Curve, Plot, courses_figure, fit_scores, fit_values, levels_figure
from easyedit_lifelong.reporting.report.method_sections import method_sections
from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.score_rows import main_names, shown
from easyedit_lifelong.reporting.report.style import look


def comparison_plots(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    """Return one figure for each score that runs have a course of, those of their methods, and that of seconds."""
    scored = list(dict.fromkeys(name for run in runs for name in run.scored_names()))
    first = main_names(runs)
    wanted = [name for name in first if name in scored]
    wanted += [name for name in scored if name not in first and _stands_alone(name, runs, wanted)]
    end = max((x for run in runs for name in scored for x, _, _ in run.points(name)), default=0)
    plots = [_score(runs, names, metric, end) for metric in wanted]
    return [*plots, *_method_plots(runs, names), *_seconds(runs, names)]


def _stands_alone(name: str, runs: Sequence[Run], others: Sequence[str]) -> bool:
    """Return whether a score says more than another one that is shown."""
    if name.endswith("_before") or runs[0].kind(name) == "count":
        return False
    return not any(all(run.points(name) == run.points(other) for run in runs) for other in others)


def _score(runs: Sequence[Run], names: Sequence[str], metric: str, end: float) -> Plot:
    courses = {number: course for number, run in enumerate(runs) if (course := run.points(metric))}
    caption = f"{METRICS[metric].meaning}." if metric in METRICS else ""
    last = "; ".join(f"{names[n]} {shown(course[-1][1], metric)} at {course[-1][0]}" for n, course in courses.items())
    once = all(len(course) == 1 for course in courses.values())
    curves = [
        Curve(names[n], course, look(n), runs[n].scores().get(f"{metric}_before") if once else None)
        for n, course in courses.items()
    ]
    if once:
        caption += " Scored once in each run."
        caption += " Hollow: the unedited model." if any(curve.before is not None for curve in curves) else ""
        figure = levels_figure(curves)
    else:
        figure = _courses(curves, fit_scores, [0.0, end, *(x for curve in curves for x, _, _ in curve.course)])
    return Plot(f"compare-{metric}", metric, caption, f"{metric} against {EDITS}: {last}", figure)


def _method_plots(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    """Return a figure for each plot of the runs' methods that compares: the first series of every run that has it."""
    found: dict[str, dict[int, ReportPlot]] = {}
    for number, run in enumerate(runs):
        for plot in (plot for section, _ in method_sections(run) for plot in section.plots):
            if plot.comparison and plot.series[0].points:
                found.setdefault(plot.name, {})[number] = plot
    figures = []
    for name, plots in found.items():
        one = next(iter(plots.values()))
        lines = {number: plot.series[0].points for number, plot in plots.items()}
        last = "; ".join(f"{names[number]} {points[-1][1]:g}" for number, points in lines.items())
        figure = _lines(lines, names, partial(fit_values, how=one.y_axis, label=""))
        figures.append(Plot(f"compare-{name}", one.comparison, "", f"{one.alt}, in the end: {last}", figure))
    return figures


def _seconds(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    """Return the figure of the time that each edit took, if it is known."""
    taken = {number: points for number, run in enumerate(runs) if (points := history.edit_seconds(run))}
    if not taken:
        return []
    lines = {n: history.running_median(points) if len(points) >= 5 else points for n, points in taken.items()}
    last = "; ".join(f"{names[number]} {points[-1][1]:.2f}" for number, points in taken.items())
    caption = "Running medians. Compare only runs of the same machine."
    figure = _lines(lines, names, partial(fit_values, how="positive", label="seconds"))
    return [Plot("compare-seconds", "Seconds an edit", caption, f"Seconds of each edit, at the end: {last}", figure)]


def _lines(
    lines: Mapping[int, Sequence[Point]], names: Sequence[str], fit: Callable[[Axes, Sequence[float]], None]
) -> Figure:
    """Draw one line for each run, by the run's number."""
    curves = [
        Curve(names[number], [(x, y, None) for x, y in history.thinned(points)], look(number))
        for number, points in lines.items()
    ]
    return _courses(curves, fit, [0, *(points[-1][0] for points in lines.values())])


def _courses(curves: Sequence[Curve], fit: Callable[[Axes, Sequence[float]], None], xs: Sequence[float]) -> Figure:
    """Draw curves in a figure that is as high as its legend needs."""
    longest = max(len(curve.label) for curve in curves)
    columns = 3 if longest <= 12 else 2 if longest <= 26 else 1
    return courses_figure(curves, fit, xs, columns=columns, height=2.75 + 0.19 * -(-len(curves) // columns))
