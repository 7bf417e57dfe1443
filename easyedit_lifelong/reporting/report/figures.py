"""The figures of one run: its scores, and the time of its edits."""

from __future__ import annotations

from collections.abc import Sequence

from easyedit_lifelong.methods.report_sections import EDITS, ReportPlot, Series
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report import history
from easyedit_lifelong.reporting.report.axes import Curve, Plot, curves_figure, dot_plot, fit_scores
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import shown
from easyedit_lifelong.reporting.report.style import series_style

_GROUPS = {
    "scores-grace": ("ES", "ERR", "TRR", "ARR"),
    "scores-easyedit": ("reliability", "generality", "locality", "relation_specificity", "portability"),
    "scores-f1": ("ERR_f1", "TRR_f1"),
    "scores-accuracy": ("ES_acc", "ERR_acc", "TRR_acc"),
    "scores-perplexity": ("ES_ppl", "ERR_ppl", "TRR_ppl"),
    "scores-success": ("efficacy_success", "paraphrase_success", "neighborhood_success", "rome_score"),
    "scores-magnitude": ("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude"),
}
"""The scores of each figure, grouped by the paper that defines them, or by kind. Other scores between 0 and 1 share a
figure of generated or other scores; each remaining score has its own figure."""

_TITLES = {
    "scores-success": "ROME's and MEMIT's success",
    "scores-magnitude": "ROME's and MEMIT's magnitude",
    "scores-generated": "Free generation",
    "scores-others": "Other scores",
}

_HELD_OUT, _QUESTIONS = "held-out facts", "questions"
_UNITS = {
    "TRR": _HELD_OUT,
    "TRR_f1": _HELD_OUT,
    "TRR_acc": _HELD_OUT,
    "TRR_ppl": _HELD_OUT,
    "ARR": "requests and held-out facts",
    "text_perplexity": "windows of the text",
    "capability": _QUESTIONS,
    "capability_norm": _QUESTIONS,
}
"""What is drawn with replacement for the interval of a score, if not requests."""
_SINGLE_ROUND_UNITS = {**_UNITS, "TRR": "batches", "ARR": "requests"}
"""The same in single-round runs, in which all requests of a batch share one TRR."""


def score_plots(run: RunFiles) -> list[Plot]:
    """Return the figures of a run's scores: curves against the number of edits, or dots if there was one scoring."""
    before = run.scores()
    plots = []
    for name, metrics in _grouped(run).items():
        curves = [
            Curve(metric, run.points(metric), series_style(n), before.get(f"{metric}_before"))
            for n, metric in enumerate(metrics)
        ]
        once = all(len(curve.points) == 1 for curve in curves)
        if once and len(curves) == 1:  # a single number needs no figure
            continue
        with_before = [curve.label for curve in curves if curve.before is not None]
        xs = [x for curve in curves for x, _, _ in curve.points]
        last = ", ".join(f"{curve.label} {shown(curve.points[-1][1], curve.label)}" for curve in curves)
        caption = [f"Scored once, at {counted(int(xs[0]), 'edit')}."] if once else []
        if any(interval is not None for curve in curves for _, _, interval in curve.points):
            caption.append(f"{'Bars' if once else 'Bands'} are 95 % bootstrap intervals over {_drawn(metrics, run)}.")
        if with_before:
            marks = "Hollow marks:" if once else f"Dotted lines: {_listed(with_before)} of"
            caption.append(f"{marks} the unedited model.")
        if once:
            figure, alt = dot_plot(curves), last
        else:
            figure = curves_figure(curves, fit_scores, xs, columns=2 if max(map(len, metrics)) > 12 else 4)
            alt = f"{_listed(metrics)} against {EDITS}; at {counted(int(max(xs)), 'edit')}: {last}"
        plots.append(Plot(name, _TITLES.get(name) or _listed(metrics), " ".join(caption), alt, figure))
    return plots


def time_plots(run: RunFiles) -> list[ReportPlot]:
    """Return the figure of the time that each edit took."""
    seconds = history.edit_seconds(run)
    if not seconds:
        return []
    series = [Series("one edit", seconds, "points", marker=".", muted=True)]
    if len(seconds) >= 5:
        series.append(Series("running median", history.thinned(history.running_median(seconds)), marker=""))
    tenth = max(1, len(seconds) // 10)
    early, late = (sorted(y for _, y in part)[tenth // 2] for part in (seconds[:tenth], seconds[-tenth:]))
    caption = f"Median of the first tenth {early:.2f} s, of the last {late:.2f} s."
    if any(isinstance(entry.get("batch"), int) for entry in run.journal):
        caption += " The time of a batch is divided evenly among its edits."
    alt = f"Seconds of each edit against {EDITS}"
    return [ReportPlot("seconds", "Wall seconds of each edit", caption, alt, "seconds", series, y_axis="positive")]


def _drawn(metrics: Sequence[str], run: RunFiles) -> str:
    """Return what the bootstrap draws for these scores: ``requests (TRR: held-out facts)``."""
    unit_of = _SINGLE_ROUND_UNITS if run.is_single_round else _UNITS
    units: dict[str, list[str]] = {}
    for metric in metrics:
        units.setdefault(unit_of.get(metric, "requests"), []).append(metric)
    (first, _), *others = sorted(units.items(), key=lambda unit: unit[0] != "requests")
    notes = "; ".join(f"{_listed(names)}: {unit}" for unit, names in others)
    return f"{first} ({notes})" if notes else first


def _grouped(run: RunFiles) -> dict[str, list[str]]:
    """Return the names of the scores of each figure."""
    names = run.scored_names()
    groups = {name: [metric for metric in group if metric in names] for name, group in _GROUPS.items()}
    grouped = {metric for group in groups.values() for metric in group}
    for metric in names:
        if metric in grouped or metric.endswith("_before") or run.kind(metric) == "count":
            continue
        if all(0 <= value <= 1 for _, value, _ in run.points(metric)):
            generated = run.kind(metric) == "generated"
            groups.setdefault("scores-generated" if generated else "scores-others", []).append(metric)
        else:
            groups[f"score-{metric}"] = [metric]
    return {name: group for name, group in groups.items() if group}


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
