"""The figures of several runs side by side: one for each score, all on the same axes."""

from __future__ import annotations

from collections.abc import Sequence

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.reporting.report import history
from easyedit_lifelong.reporting.report.axes import (
    EDITS,
    Level,
    Plot,
    draw_course,
    draw_levels,
    fit_edits,
    fit_positive,
    fit_scores,
)
from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.score_rows import main_names, shown
from easyedit_lifelong.reporting.report.style import legend_below, look, new_figure


def comparison_plots(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    """Return one figure for each score that runs have a course of, and those of keys and seconds."""
    scored = list(dict.fromkeys(name for run in runs for name in run.scored_names()))
    first = main_names(runs)
    wanted = [name for name in first if name in scored]
    wanted += [name for name in scored if name not in first and _stands_alone(name, runs, wanted)]
    end = max((x for run in runs for name in scored for x, _, _ in run.points(name)), default=0)
    plots = [_score(runs, names, metric, end) for metric in wanted]
    return [*plots, *_keys(runs, names), *_seconds(runs, names)]


def _stands_alone(name: str, runs: Sequence[Run], others: Sequence[str]) -> bool:
    """Whether a score says more than another one that is shown."""
    if name.endswith("_before") or runs[0].kind(name) == "count":
        return False
    return not any(all(run.points(name) == run.points(other) for run in runs) for other in others)


def _score(runs: Sequence[Run], names: Sequence[str], metric: str, end: float) -> Plot:
    caption = f"{METRICS[metric].meaning}." if metric in METRICS else ""
    courses = {number: course for number, run in enumerate(runs) if (course := run.points(metric))}
    said = "; ".join(f"{names[n]} {shown(course[-1][1], metric)} at {course[-1][0]}" for n, course in courses.items())
    alt = f"{metric} against {EDITS}: {said}"
    if all(len(course) == 1 for course in courses.values()):
        levels = [
            Level(names[n], course[0][1], course[0][2], runs[n].scores().get(f"{metric}_before"), look(n))
            for n, course in courses.items()
        ]
        figure = new_figure(height=1.0 + 0.28 * len(levels))
        draw_levels(figure.add_subplot(), levels)
        once = " Scored once in each run." + (
            " Hollow: the unedited model." if any(level.before is not None for level in levels) else ""
        )
        return Plot(f"compare-{metric}", metric, caption + once, alt, figure)
    figure = new_figure(height=_height([names[n] for n in courses]))
    axes = figure.add_subplot()
    values = []
    for number, course in courses.items():
        draw_course(axes, course, look(number), names[number])
        values += [y for _, y, _ in course] + [bound for _, _, pair in course for bound in pair or ()]
    fit_edits(axes, [0.0, end, *(x for course in courses.values() for x, _, _ in course)])
    fit_scores(axes, values)
    legend_below(figure, axes, columns=_columns(names))
    return Plot(f"compare-{metric}", metric, caption, alt, figure)


def _columns(names: Sequence[str]) -> int:
    """Return how many names fit beside each other in a legend."""
    longest = max(map(len, names), default=0)
    return 3 if longest <= 12 else 2 if longest <= 26 else 1


def _height(names: Sequence[str]) -> float:
    """Return a figure's height in inches: that of the plot, and a legend of these names."""
    return 2.75 + 0.19 * -(-len(names) // _columns(names))


def _keys(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    grown = {number: points for number, run in enumerate(runs) if (points := history.key_growth(run))}
    if not grown:
        return []
    figure = new_figure(height=_height([names[n] for n in grown]))
    axes = figure.add_subplot()
    for number, points in grown.items():
        line = history.thinned(points)
        axes.plot(*zip(*line, strict=True), label=names[number], markevery=max(1, len(line) // 12), **look(number))
    fit_edits(axes, [0, *(points[-1][0] for points in grown.values())])
    axes.set_ylim(0, 1.05 * max(points[-1][1] for points in grown.values()))
    legend_below(figure, axes, columns=_columns(names))
    said = "; ".join(f"{names[number]} {points[-1][1]:g}" for number, points in grown.items())
    return [Plot("compare-keys", "Codebook keys", "", f"Number of keys against {EDITS}, in the end: {said}", figure)]


def _seconds(runs: Sequence[Run], names: Sequence[str]) -> list[Plot]:
    taken = {number: points for number, run in enumerate(runs) if (points := history.edit_seconds(run))}
    if not taken:
        return []
    figure = new_figure(height=_height([names[n] for n in taken]))
    axes = figure.add_subplot()
    values = []
    for number, points in taken.items():
        line = history.thinned(history.running_median(points) if len(points) >= 5 else points)
        axes.plot(*zip(*line, strict=True), label=names[number], markevery=max(1, len(line) // 12), **look(number))
        values += [y for _, y in line]
    fit_edits(axes, [0, *(points[-1][0] for points in taken.values())])
    log = fit_positive(axes, values)
    axes.set_ylabel("seconds (log)" if log else "seconds")
    legend_below(figure, axes, columns=_columns(names))
    said = "; ".join(f"{names[number]} {points[-1][1]:.2f}" for number, points in taken.items())
    caption = "Running medians. Compare only runs of the same machine."
    return [Plot("compare-seconds", "Seconds an edit", caption, f"Seconds of each edit, at the end: {said}", figure)]
