"""The figures of one run."""

from __future__ import annotations

from collections.abc import Sequence

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
    listed,
)
from easyedit_lifelong.reporting.report.read import Run
from easyedit_lifelong.reporting.report.score_rows import shown
from easyedit_lifelong.reporting.report.style import MUTED, legend_below, look, new_figure

_GROUPS = {
    "scores-grace": ("ES", "ERR", "TRR", "ARR"),
    "scores-easyedit": ("reliability", "generality", "locality", "relation_specificity", "portability"),
    "scores-f1": ("ERR_f1", "TRR_f1"),
    "scores-accuracy": ("ES_acc", "ERR_acc", "TRR_acc"),
    "scores-perplexity": ("ES_ppl", "ERR_ppl", "TRR_ppl"),
    "scores-success": ("efficacy_success", "paraphrase_success", "neighborhood_success", "rome_score"),
    "scores-magnitude": ("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude"),
}
"""Scores that one figure shows together; others are grouped by how they are taken, or stand alone."""

_TITLES = {
    "scores-success": "ROME's and MEMIT's success", "scores-magnitude": "ROME's and MEMIT's magnitude",
    "scores-generated": "Free generation", "scores-others": "Other scores",
}  # fmt: skip

_DECISIONS = ("add", "expand", "covered", "split", "supersede")


def score_plots(run: Run) -> list[Plot]:
    """Return the figures of a run's scores against the number of edits, or of those that were taken only once."""
    plots = []
    for name, metrics in _grouped(run).items():
        if any(len(run.points(metric)) > 1 for metric in metrics):
            plots.append(_courses(run, name, metrics))
        elif len(metrics) > 1:  # one number is no figure
            plots.append(_levels(run, name, metrics))
    return plots


def _courses(run: Run, name: str, metrics: Sequence[str]) -> Plot:
    figure = new_figure()
    axes = figure.add_subplot()
    before = run.scores()
    known = [metric for metric in metrics if f"{metric}_before" in before]
    courses = {metric: run.points(metric) for metric in metrics}
    values = [before[f"{metric}_before"] for metric in known]
    for number, (metric, course) in enumerate(courses.items()):
        draw_course(axes, course, look(number), metric)
        values += [y for _, y, _ in course] + [bound for _, _, pair in course for bound in pair or ()]
        if metric in known:
            axes.axhline(
                before[f"{metric}_before"], color=look(number)["color"], linewidth=0.9, linestyle=(0, (1, 3))
            )  # fmt: skip
    fit_edits(axes, [x for course in courses.values() for x, _, _ in course])
    fit_scores(axes, values)
    legend_below(figure, axes, columns=2 if max(map(len, metrics)) > 12 else 4)
    said = []
    if any(pair is not None for course in courses.values() for _, _, pair in course):
        said.append("Bands are 95 % bootstrap intervals over requests.")
    if known:
        said.append(f"Dotted: {listed(known)} of the unedited model.")
    last = ", ".join(f"{metric} {shown(course[-1][1], metric)}" for metric, course in courses.items())
    at = max(course[-1][0] for course in courses.values())
    alt = f"{listed(metrics)} against {EDITS}; at {at} edits: {last}"
    return Plot(name, _title(name, metrics), " ".join(said), alt, figure)


def _levels(run: Run, name: str, metrics: Sequence[str]) -> Plot:
    before = run.scores()
    levels = [
        Level(metric, value, interval, before.get(f"{metric}_before"), look(number))
        for number, metric in enumerate(metrics)
        for _, value, interval in run.points(metric)
    ]
    figure = new_figure(height=1.0 + 0.28 * len(levels))
    draw_levels(figure.add_subplot(), levels)
    caption = f"Scored once, at {run.points(metrics[0])[0][0]} edits."
    if any(level.interval is not None for level in levels):
        caption += " Bars are 95 % bootstrap intervals over requests."
    if any(level.before is not None for level in levels):
        caption += " Hollow: the unedited model."
    said = ", ".join(f"{level.name} {shown(level.value, level.name)}" for level in levels)
    return Plot(name, _title(name, metrics), caption, said, figure)


def key_plots(run: Run) -> list[Plot]:
    """Return the figures of a GRACE codebook: how many keys it has, and how far they reach."""
    plots = []
    grown = history.key_growth(run)
    if grown:
        figure = new_figure()
        axes = figure.add_subplot()
        line = {**look(0), "marker": "o" if len(grown) == 1 else ""}
        axes.plot(*zip(*grown, strict=True), label="keys", **line)
        end = max(x for x, _ in grown)
        axes.plot([0, end], [0, end], color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label="one for each edit")
        fit_edits(axes, [0, end])
        axes.set_ylim(0, 1.05 * max(end, max(y for _, y in grown), 1))
        axes.set_ylabel("keys")
        legend_below(figure, axes)
        edits, keys = grown[-1]
        caption = f"{keys:g} keys hold {edits:g} edits: {edits / keys if keys else 0:.2f} edits a key."
        plots.append(Plot("keys", "Codebook growth", caption, f"Number of keys against {EDITS}. {caption}", figure))
    events = history.key_events(run)
    if events:
        plots.append(_radii(events))
    return plots


def _radii(events: Sequence[history.KeyEvent]) -> Plot:
    figure = new_figure()
    axes = figure.add_subplot()
    distances = history.thinned([(e.n_edits, e.distance) for e in events if e.distance is not None])
    if distances:
        axes.plot(
            *zip(*distances, strict=True), linestyle="none", marker="." if len(distances) > 150 else "x",
            markersize=3.5, color=MUTED, alpha=0.6,
            label="distance to the nearest key",
        )  # fmt: skip
    names = dict.fromkeys(event.decision for event in events)
    small = {"linestyle": "none", "markersize": 4.5 if len(events) <= 150 else 2.5, "markeredgewidth": 0}
    for name in sorted(names, key=lambda name: (_DECISIONS.index(name) if name in _DECISIONS else 99, name)):
        number = _DECISIONS.index(name) if name in _DECISIONS else len(_DECISIONS)
        points = history.thinned([(event.n_edits, event.radius) for event in events if event.decision == name])
        axes.plot(*zip(*points, strict=True), label=f"radius ({name})", **{**look(number), **small})
    fit_edits(axes, [0, events[-1].n_edits])
    if fit_positive(axes, [y for _, y in distances] + [event.radius for event in events]):
        axes.set_ylabel("distance (log)")
    else:
        axes.set_ylabel("distance")
    legend_below(figure, axes)
    counted = ", ".join(f"{name} {count}" for name, count in history.decisions(events).items())
    low, high = min(e.radius for e in events), max(e.radius for e in events)
    reach = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
    caption = (
        f"Deferral radius ε of the key that answers each edit, right after it: {reach}. Where the "
        f"distance to the nearest key falls to its radius and ε_init, keys share or split their ground. {counted}."
    )
    return Plot("radii", "Deferral radii", caption, f"Radii of keys against {EDITS}. {caption}", figure)


def hook_plots(run: Run) -> list[Plot]:
    """Return the figures of CoachHook's hook layers: α, and the z-scores that it was set by."""
    plots = []
    by_batch = history.alphas(run)
    if by_batch:
        figure = new_figure()
        axes = figure.add_subplot()
        layers = list(next(iter(by_batch.values())))
        batches = list(by_batch)
        for number, layer in enumerate(layers):
            course = [by_batch[batch].get(layer, float("nan")) for batch in batches]
            if layer == layers[-1]:
                axes.plot(batches, course, label="last hook layer", **look(0))
            else:
                label = "other hook layers" if number == 0 else None
                axes.plot(batches, course, color=MUTED, linewidth=0.9, alpha=0.7, label=label)
        fit_edits(axes, [0, *batches], "batch")
        axes.set_ylabel("α")
        legend_below(figure, axes)
        ends = list(by_batch[batches[-1]].values())
        began = run.hparams.get("alpha_z")
        caption = (
            f"α after each batch, by hook layer: it only falls{f', from {began:g}' if began else ''}; "
            f"in the end it is {min(ends):.3f} to {max(ends):.3f}. "
            "The lower, the more tokens a hook takes for edited ones."
        )
        plots.append(Plot("alpha", "α by batch", caption, f"Alpha against batches. {caption}", figure))
    scores = history.z_scores(run)
    if scores:
        plots.append(_z_scores(scores, {batch: list(a.values())[-1] for batch, a in by_batch.items()}))
    return plots


def _z_scores(scores: dict[int, list[float]], alphas: dict[int, float]) -> Plot:
    figure = new_figure()
    axes = figure.add_subplot()
    batches = list(scores)
    if len(batches) <= 40:
        line = {"color": look(0)["color"], "linewidth": 1.1}
        axes.boxplot(
            list(scores.values()), positions=batches, widths=0.6, manage_ticks=False, whis=(0, 100),
            boxprops=line, whiskerprops=line, capprops=line, medianprops={**line, "linewidth": 2.2},
        )  # fmt: skip
    else:
        ordered = [sorted(values) for values in scores.values()]
        middle = [values[len(values) // 2] for values in ordered]
        axes.fill_between(
            batches, [v[0] for v in ordered], [v[-1] for v in ordered], color=look(0)["color"], alpha=0.16, linewidth=0
        )
        axes.plot(batches, middle, color=look(0)["color"], label="median")
    if alphas:
        axes.plot(list(alphas), list(alphas.values()), label="α of that layer, after the batch", **look(1))
    fit_edits(axes, [0, *batches, max(batches) + 0.5], "batch")
    axes.set_ylabel("highest z-score")
    legend_below(figure, axes)
    values = [value for batch in scores.values() for value in batch]
    caption = (
        f"Each edited prompt's highest z-score in the last hook layer, by batch (boxes: quartiles; whiskers: all): "
        f"{min(values):.3f} to {max(values):.3f}. α falls to the smallest of them."
    )
    return Plot("z-scores", "Highest z-scores", caption, f"z-scores by batch. {caption}", figure)


def time_plots(run: Run) -> list[Plot]:
    """Return the figure of what each edit took."""
    seconds = history.edit_seconds(run)
    if not seconds:
        return []
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(
        *zip(*history.thinned(seconds), strict=True), linestyle="none", marker=".", markersize=3.5, color=MUTED,
        alpha=0.6, label="one edit",
    )  # fmt: skip
    if len(seconds) >= 5:
        median = history.thinned(history.running_median(seconds))
        axes.plot(*zip(*median, strict=True), label="running median", **{**look(0), "marker": ""})
    fit_edits(axes, [0, seconds[-1][0]])
    log = fit_positive(axes, [y for _, y in seconds])
    axes.set_ylabel("seconds (log)" if log else "seconds")
    legend_below(figure, axes)
    first, last = seconds[: max(1, len(seconds) // 10)], seconds[-max(1, len(seconds) // 10) :]
    early, late = (sorted(y for _, y in part)[len(part) // 2] for part in (first, last))
    caption = f"Median of the first tenth {early:.2f} s, of the last {late:.2f} s."
    if any(isinstance(entry.get("batch"), int) for entry in run.journal):
        caption += " An edit's time is its batch's, divided evenly."
    return [Plot("seconds", "Seconds an edit", caption, f"Seconds of each edit against {EDITS}. {caption}", figure)]


def _grouped(run: Run) -> dict[str, list[str]]:
    """Return which scores each figure shows."""
    names = run.scored_names()
    groups = {name: [metric for metric in group if metric in names] for name, group in _GROUPS.items()}
    grouped = {metric for group in groups.values() for metric in group}
    for metric in names:
        if metric in grouped or metric.endswith("_before") or run.kind(metric) == "count":
            continue
        values = [y for _, y, _ in run.points(metric)]
        if all(0 <= value <= 1 for value in values):
            generated = run.kind(metric) == "generated"
            groups.setdefault("scores-generated" if generated else "scores-others", []).append(metric)
        else:
            groups[f"score-{metric}"] = [metric]
    return {name: group for name, group in groups.items() if group}


def _title(name: str, metrics: Sequence[str]) -> str:
    return _TITLES.get(name) or listed(metrics)
