"""CoachHook's section of a run's report: α, and the z-scores that set it."""

from __future__ import annotations

from easyedit_lifelong.methods.report_sections import ReportPlot, ReportSection, RunRecord, Series, is_number


def report_sections(run: RunRecord) -> list[ReportSection]:
    """Return the section on the hook layers: α by batch, and the highest z-scores by batch."""
    by_batch = alphas(run)
    plots = [*_alpha(run, by_batch), *_z_scores(run, by_batch)]
    empty = (
        "This run edits the weights themselves: without hook layers there is neither α nor a z-score."
        if run.hparams.get("wohk")
        else "The journal has no z-scores, and `state/` no α: nothing was edited, or the state was removed."
    )
    return [ReportSection("hooks", "Hooks", plots, empty)]


def alphas(run: RunRecord) -> dict[int, dict[str, float]]:
    """Return α by hook layer after each batch, by the batch's number in the journal."""
    in_batches = [entry for entry in run.journal if isinstance(entry.get("batch"), int)]
    batches = {str(entry.get("case_id")): entry["batch"] for entry in in_batches}
    found = {}
    for position, (edits, state) in enumerate(run.steps, 1):
        by_layer = {path: float(x) for path, x in state["batches"][-1]["alphas"].items() if is_number(x)}
        if by_layer:
            number = batches.get(str(edits[0].get("case_id")), position) if edits else position
            found[number] = by_layer
    return found


def z_scores(run: RunRecord) -> dict[int, list[float]]:
    """Return the highest z-scores of each batch's prompts in the last hook layer, by the batch's number."""
    found: dict[int, list[float]] = {}
    for _, entry in run.edits("highest_z_score"):
        if isinstance(entry.get("batch"), int):
            found.setdefault(entry["batch"], []).append(float(entry["highest_z_score"]))
    return found


def _alpha(run: RunRecord, by_batch: dict[int, dict[str, float]]) -> list[ReportPlot]:
    if not by_batch:
        return []
    *others, last = next(iter(by_batch.values()))
    series = [
        Series("" if number else "other hook layers", _course(by_batch, layer), muted=True)
        for number, layer in enumerate(others)
    ]
    ends = list(by_batch.values())[-1].values()
    began = run.hparams.get("alpha_z")
    caption = (
        f"α after each batch, by hook layer: it only falls{f', from {began:g}' if began else ''}; "
        f"in the end it is {min(ends):.3f} to {max(ends):.3f}. "
        "The lower, the more tokens a hook takes for edited ones."
    )
    series.append(Series("last hook layer", _course(by_batch, last)))
    return [ReportPlot("alpha", "α by batch", caption, "Alpha against batches", "α", series, "batch")]


def _z_scores(run: RunRecord, by_batch: dict[int, dict[str, float]]) -> list[ReportPlot]:
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
        f"{min(values):.3f} to {max(values):.3f}. α falls to the smallest of them."
    )
    alt = "z-scores by batch"
    return [ReportPlot("z-scores", "Highest z-scores", caption, alt, "highest z-score", series, "batch")]


def _course(by_batch: dict[int, dict[str, float]], layer: str) -> list[tuple[float, float]]:
    return [(batch, by_layer.get(layer, float("nan"))) for batch, by_layer in by_batch.items()]
