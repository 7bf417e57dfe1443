"""CoachHook's section of a run's report: α after each batch, and the z-scores that it falls to."""

from __future__ import annotations

from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, RunRecord, Series, is_number


def report_sections(run: RunRecord) -> list[ReportSection]:
    """Return the section on hook layers: α after each batch, and the highest z-scores of each batch.

    With ``scope_score: codebook``, there are radii of keys instead.
    """
    if run.hparams.get("scope_score") == "codebook":
        no_radii = "The journal has no radii of keys: nothing was edited."
        return [ReportSection("hooks", "Hooks", _radius_plot(run), no_radii)]
    by_batch = alphas(run)
    plots = [*_alpha_plot(run, by_batch), *_z_score_plot(run, by_batch)]
    empty = (
        "This run edits the weights, without hook layers, so it has neither α nor z-scores."
        if run.hparams.get("wohk")
        else "The journal has no z-scores and `state/` has no α: nothing was edited, or the state was removed."
    )
    return [ReportSection("hooks", "Hooks", plots, empty)]


def alphas(run: RunRecord) -> dict[int, dict[str, float]]:
    """Return α of each hook layer after each batch: by the number of the batch, then by path.

    The number is that of the journal. If the journal lacks the batch, it is the position of the batch's step.
    """
    batch_numbers = {
        str(entry.get("case_id")): entry["batch"] for entry in run.journal if isinstance(entry.get("batch"), int)
    }
    by_batch = {}
    for position, (edits, state) in enumerate(run.steps, 1):
        saved = state["batches"][-1]["alphas"]
        by_layer = {path: float(alpha) for path, alpha in saved.items() if is_number(alpha)}
        if by_layer:
            number = batch_numbers.get(str(edits[0].get("case_id")), position) if edits else position
            by_batch[number] = by_layer
    return by_batch


def z_scores(run: RunRecord) -> dict[int, list[float]]:
    """Return the highest z-score of each prompt in the last hook layer, by the number of its batch."""
    return _by_batch(run, "highest_z_score")


def _by_batch(run: RunRecord, name: str) -> dict[int, list[float]]:
    """Return a number that the journal has for each edit, by the number of the batch."""
    by_batch: dict[int, list[float]] = {}
    for _, entry in run.edits(name):
        if isinstance(entry.get("batch"), int):
            by_batch.setdefault(entry["batch"], []).append(float(entry[name]))
    return by_batch


def _alpha_plot(run: RunRecord, by_batch: dict[int, dict[str, float]]) -> list[ReportPlot]:
    """Return the plot of α against batches; none without data."""
    if not by_batch:
        return []
    *others, last = next(iter(by_batch.values()))
    series = [
        # One entry in the legend for all of them.
        Series("other hook layers" if index == 0 else "", _alpha_series(by_batch, layer), muted=True)
        for index, layer in enumerate(others)
    ]
    final = list(by_batch.values())[-1].values()
    initial = run.hparams.get("alpha_z")
    caption = (
        f"α of each hook layer after each batch. It only falls{f', from {initial:g}' if initial else ''}; "
        f"at the end it is {min(final):.3f} to {max(final):.3f}. "
        "The lower α is, the more tokens a hook layer acts on."
    )
    series.append(Series("last hook layer", _alpha_series(by_batch, last)))
    return [ReportPlot("alpha", "α by batch", caption, "Alpha against batches", "α", series, "batch")]


def _z_score_plot(run: RunRecord, by_batch: dict[int, dict[str, float]]) -> list[ReportPlot]:
    """Return the plot of the highest z-scores of each batch, and of α; none without data."""
    scores = z_scores(run)
    if not scores:
        return []
    series = [Series("median", list(scores.items()), "distribution")]
    if by_batch:
        last = [(batch, list(by_layer.values())[-1]) for batch, by_layer in by_batch.items()]
        series.append(Series("α of that layer, after the batch", last, style=1))
    values = [value for batch in scores.values() for value in batch]
    caption = (
        f"Each edited prompt's highest z-score in the last hook layer, by batch (boxes: quartiles; whiskers: all): "
        f"{min(values):.3f} to {max(values):.3f}. "
        "A hook layer acts on the tokens whose z-score is α or more."
    )
    alt = "z-scores by batch"
    return [ReportPlot("z-scores", "Highest z-scores", caption, alt, "highest z-score", series, "batch")]


def _radius_plot(run: RunRecord) -> list[ReportPlot]:
    """Return the plot of the radii of each batch's keys; none without data."""
    radii = _by_batch(run, "radius")
    if not radii:
        return []
    caption = (
        "Radii of the keys of each batch's subjects, in cosine distance (boxes: quartiles; whiskers: all). Hook layers "
        "act on the tokens within the radius of a key."
    )
    series = [Series("median", list(radii.items()), "distribution")]
    return [ReportPlot("radii", "Radii of keys", caption, "Radii of keys by batch", "radius", series, "batch")]


def _alpha_series(by_batch: dict[int, dict[str, float]], layer: str) -> list[tuple[float, float]]:
    """Return the points of α of a hook layer: batch number and α."""
    return [(batch, by_layer.get(layer, float("nan"))) for batch, by_layer in by_batch.items()]
