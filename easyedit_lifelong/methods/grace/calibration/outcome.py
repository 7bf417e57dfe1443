"""A calibration's outcome: tables, a verdict in sentences, and plots, as the ``calibrate`` command shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.calibrator import CalibrationOutcome, PlotPanel, PlotSeries, TextTable
from easyedit_lifelong.methods.grace.calibration.answering import SCORES, Gate, Point, Trial
from easyedit_lifelong.methods.grace.calibration.choice import AUTO, best_finding
from easyedit_lifelong.methods.grace.calibration.finding import DISTANCES, Finding, rates_with
from easyedit_lifelong.methods.grace.calibration.study import Calibration

_MARK = "←"
_SHARES = (0.7, 0.8, 0.9, 0.95)


def outcome_of(calibration: Calibration) -> CalibrationOutcome:
    """Return what a calibration chose, and what to show of it."""
    steps, counts, point = calibration.steps, calibration.counts, calibration.point
    rate = calibration.settings.false_fire_rate
    assert steps.findings is not None and steps.gates is not None
    shared = [
        gate_table(steps.gates),
        *(trial_table(trial, point if trial is calibration.trial else None) for trial in steps.trials),
    ]
    return CalibrationOutcome(
        chosen=calibration.chosen,
        counts=counts,
        scores=vars(point),
        evidence=f"{counts['paraphrases']} paraphrases, {counts['locality']} locality prompts",
        verdict=verdict(calibration),
        tables=[finding_table(steps.findings, rate, rates_with(rate)), *shared],
        short_tables=[finding_table(steps.findings, rate, [rate]), *shared],
        panels=[finding_panel(steps.findings, calibration.finding, rate), gate_panel(steps.trials, point)],
        caption="Paraphrases found by layer and distance; what the gate trades",
    )


def finding_table(findings: Sequence[Finding], rate: float, rates: Sequence[float]) -> TextTable:
    """Return the table of where subjects are found.

    Args:
        findings: for each layer and distance.
        rate: the false-fire rate at which the best is marked.
        rates: the false-fire rates that the table shows.
    """
    best = best_finding(findings, rate)
    rows = [
        [
            short_name(one.layer),
            one.distance,
            f"{one.right:.3f}",
            *(f"{one.at(each).found:.3f}" for each in rates),
            f"{one.auto.found:.3f}",
            f"{one.auto.fires:.3f}",
            _MARK if one is best else "",
        ]
        for one in findings
    ]
    found = [f"found at {each:.1%}" for each in rates]
    headers = ["layer", "distance", "nearest is right", *found, "auto", "fires", ""]
    return TextTable("Paraphrases found, by how many locality prompts may fire", headers, rows, 2)


def gate_table(gates: Sequence[Gate]) -> TextTable:
    """Return the table of how well the answering layers' gates separate questions."""
    rows = []
    for gate in gates:
        openings = [gate.passing(share) for share in _SHARES]
        cells = [f"{opening.others:.3f} ({opening.radius:.2f})" for opening in openings]
        rows.append([short_name(gate.layer), f"{gate.auc:.3f}", *cells])
    title = "Other questions about the subject that pass where so many paraphrases do (and the gate)"
    return TextTable(title, ["layer", "AUC", *(f"at {share:.0%}" for share in _SHARES)], rows)


def trial_table(trial: Trial, chosen: Point | None) -> TextTable:
    """Return the table of a trial's scores.

    Args:
        trial: the trial.
        chosen: the chosen point; None if it is another trial's.
    """
    rows = [
        [
            "none" if point.gate is None else f"{point.gate:.2f}",
            *(f"{score:.3f}" for score in point.scores),
            _MARK if point is chosen else "",
        ]
        for point in trial.points
    ]
    headers = ["gate", *(name.replace("_", " ") for name in SCORES), ""]
    return TextTable(f"{trial.n_edits} edits that answer at {trial.layer}", headers, rows)


def verdict(calibration: Calibration) -> list[str]:
    """Return what was chosen, and why, in sentences."""
    counts, settings, rate = calibration.counts, calibration.settings, calibration.settings.false_fire_rate
    finding, eps, point, free = calibration.finding, calibration.eps, calibration.point, calibration.trial.points[-1]
    radius = finding.auto if eps == AUTO else finding.at(rate)
    least = f"{settings.generality:g} of the {free.generality:.3f} that it is without."
    why = f"with no gate: behind all that were tried, generality is less than {least}"
    if point.gate is not None:
        why = (
            f"gate_eps {point.gate:g}: the narrowest at which generality is at least {least} It is "
            f"{point.generality:.3f} there."
        )
    lines = [
        f"Subjects are found at {finding.layer}, by {finding.distance}, eps {eps}: {radius.found:.3f} of the "
        f"paraphrases, while {radius.fires:.3f} of the locality prompts fire.",
        f"Edits answer at {calibration.trial.layer}, {why} Relation specificity is {point.relation_specificity:.3f} "
        f"({free.relation_specificity:.3f} without a gate), reliability {point.reliability:.3f}, locality "
        f"{point.locality:.3f}.",
    ]
    if counts["locality"] * rate < 1:
        lines.append(
            f"A false-fire rate of {rate:g} is less than one of {counts['locality']} locality prompts; more records "
            "would make more of it."
        )
    if counts["made"]:
        lines.append(
            f"{counts['made']} of {counts['records']} records have no question about another relation "
            "(relation_specificity): theirs are other records' prompts, with their subjects put in."
        )
    if eps != AUTO:
        lines.append(
            f"eps: auto would find {finding.auto.found:.3f} and fire in {finding.auto.fires:.3f}; so it is one radius "
            "for all keys."
        )
    return lines


def finding_panel(findings: Sequence[Finding], chosen: Finding, rate: float) -> PlotPanel:
    """Return the plot of the share of paraphrases found at a false-fire rate, by layer and distance."""
    layers = list(dict.fromkeys(one.layer for one in findings))
    series = []
    for number, distance in enumerate(DISTANCES):
        several = [(layers.index(one.layer), one) for one in findings if one.distance == distance]
        series += [
            PlotSeries([(x, one.at(rate).found) for x, one in several], distance, number),
            PlotSeries([(x, one.auto.found) for x, one in several], "" if number else "… eps: auto", number, "crosses"),
        ]
    ticks, x_label = tick_names(layers)
    return PlotPanel(
        f"Paraphrases found, {rate:.1%} of locality prompts fire",
        x_label,
        series,
        (layers.index(chosen.layer), chosen.at(rate).found),
        ticks=ticks,
        y_range=(-0.03, 1.03),
    )


def gate_panel(trials: Sequence[Trial], chosen: Point) -> PlotPanel:
    """Return the plot of relation specificity and locality against generality, along each trial's gates."""

    def place(point: Point) -> tuple[float, float]:
        return point.generality, point.relation_specificity

    series = []
    for number, trial in enumerate(trials):
        # Gates that let the same through are at one place: the narrowest names it.
        names: dict[Any, str] = {
            place(point): "none" if point.gate is None else f"{point.gate:g}" for point in reversed(trial.points)
        }
        locality = [(point.generality, point.locality) for point in trial.points]
        series += [
            PlotSeries([*map(place, trial.points)], short_name(trial.layer), number, notes=names),
            PlotSeries(locality, "… locality", number, "dotted"),
        ]
    title, y_label = "What the gate trades", "relation specificity, locality"
    return PlotPanel(title, "generality", series, place(chosen), y_label)


def short_name(layer: str) -> str:
    """Return a layer's path from the number of its block on; the whole path where it has none."""
    parts = layer.split(".")
    begin = next((n for n, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[begin:])


def tick_names(layers: Sequence[str]) -> tuple[list[str], str]:
    """Return what the layers are called on an axis, and what the axis is called."""
    names = [short_name(layer) for layer in layers]
    numbers, modules = zip(*(name.partition(".")[::2] for name in names), strict=True)
    if len(set(modules)) == 1 and all(number.isdigit() for number in numbers):
        return list(numbers), f"block ({modules[0]})"
    return names, "layer"
