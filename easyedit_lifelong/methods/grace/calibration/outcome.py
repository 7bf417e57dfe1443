"""What the ``calibrate`` command shows of a calibration of GRACE: tables, a verdict in sentences, and plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.calibrator import CalibrationOutcome, PlotPanel, PlotSeries, TextTable
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import SCORES, Gate, GateScores, ScoredTrial
from easyedit_lifelong.methods.grace.calibration.choice import AUTO, best_key_layer
from easyedit_lifelong.methods.grace.calibration.key_layer_study import DISTANCES, MENTIONS, KeyLayerResult, rates_with
from easyedit_lifelong.methods.grace.calibration.study import Calibration
from easyedit_lifelong.plurals import counted

_MARK = "←"
"""Marks the chosen row of a table."""

_SHARES = (0.7, 0.8, 0.9, 0.95)
"""The shares of paraphrases for which the table of gates has columns."""


def outcome_of(calibration: Calibration) -> CalibrationOutcome:
    """Return the chosen hyperparameters with their tables, verdict and plots."""
    steps, counts, chosen = calibration.steps, calibration.counts, calibration.gate_scores
    rate = calibration.settings.false_fire_rate
    assert steps.findings is not None and steps.gates is not None
    answer_layer_tables = [
        gate_table(steps.gates),
        *(trial_table(trial, chosen if trial is calibration.trial else None) for trial in steps.trials),
    ]
    return CalibrationOutcome(
        chosen=calibration.chosen,
        counts=counts,
        scores=vars(chosen),
        evidence=f"{counted(counts['paraphrases'], 'paraphrase')}, {counted(counts['locality'], 'locality prompt')}",
        verdict=verdict(calibration),
        tables=[key_layer_table(steps.findings, rate, rates_with(rate)), *answer_layer_tables],
        short_tables=[key_layer_table(steps.findings, rate, [rate]), *answer_layer_tables],
        panels=[key_layer_panel(steps.findings, calibration.key_layer, rate), gate_panel(steps.trials, chosen)],
        caption="Paraphrases found by layer and distance; specificity and locality against generality, by gate",
    )


def key_layer_table(results: Sequence[KeyLayerResult], rate: float, rates: Sequence[float]) -> TextTable:
    """Return the table of the key layers.

    Args:
        results: the results, one for each layer and distance.
        rate: the false-fire rate at which the best result is marked.
        rates: the false-fire rates that the table shows.
    """
    best = best_key_layer(results, rate)
    rows = [
        [
            short_layer_name(result.layer),
            result.distance,
            f"{result.right:.3f}",
            *(f"{result.at(shown_rate).found:.3f}" for shown_rate in rates),
            f"{result.auto.found:.3f}",
            f"{result.auto.fires:.3f}",
            _MARK if result is best else "",
        ]
        for result in results
    ]
    found = [f"found at {shown_rate:.1%}" for shown_rate in rates]
    headers = ["layer", "distance", "nearest is right", *found, "auto", "fires", ""]
    title = "Share of paraphrases that find their key, by permitted share of firing locality prompts, and by eps: auto"
    return TextTable(title, headers, rows, 2)


def gate_table(gates: Sequence[Gate]) -> TextTable:
    """Return the table of how well each answer layer's gate separates questions."""
    rows = []
    for gate in gates:
        openings = [gate.passing(share) for share in _SHARES]
        cells = [f"{opening.others:.3f} ({opening.radius:.2f})" for opening in openings]
        rows.append([short_layer_name(gate.layer), f"{gate.auc:.3f}", *cells])
    title = "Share of questions about another relation that pass, by share of paraphrases that pass (gate radius)"
    return TextTable(title, ["layer", "AUC", *(f"at {share:.0%}" for share in _SHARES)], rows)


def trial_table(trial: ScoredTrial, chosen: GateScores | None) -> TextTable:
    """Return the table of a trial's scores.

    Args:
        trial: the trial.
        chosen: the scores with the chosen gate; None if the gate was chosen from another trial.
    """
    rows = [
        [
            "none" if scores.gate is None else f"{scores.gate:.2f}",
            *(f"{score:.3f}" for score in scores.scores),
            _MARK if scores is chosen else "",
        ]
        for scores in trial.points
    ]
    headers = ["gate", *(name.replace("_", " ") for name in SCORES), ""]
    return TextTable(f"{trial.n_edits} edits that answer at {trial.layer}", headers, rows)


def verdict(calibration: Calibration) -> list[str]:
    """Return sentences that say what was chosen, and why."""
    counts, settings, rate = calibration.counts, calibration.settings, calibration.settings.false_fire_rate
    key_layer, eps = calibration.key_layer, calibration.eps
    chosen, ungated = calibration.gate_scores, calibration.trial.points[-1]
    radius = key_layer.auto if eps == AUTO else key_layer.at(rate)
    least = f"{settings.generality:g} of the {ungated.generality:.3f} without a gate"
    gate = f"without a gate: behind every gate that was tried, generality is less than {least}."
    if chosen.gate is not None:
        gate = (
            f"with gate_eps {chosen.gate:g}: the narrowest gate at which generality is at least {least}. It is "
            f"{chosen.generality:.3f} there."
        )
    lines = [
        f"Subjects are found at {key_layer.layer}, by {key_layer.distance}, with eps {eps}: {radius.found:.3f} of the "
        f"paraphrases find their key, and {radius.fires:.3f} of the locality prompts fire.",
        f"Edits answer at {calibration.trial.layer}, {gate} Relation specificity is {chosen.relation_specificity:.3f} "
        f"({ungated.relation_specificity:.3f} without a gate), reliability {chosen.reliability:.3f}, locality "
        f"{chosen.locality:.3f}.",
    ]
    if calibration.hparams.named_eps is not None:
        lines.append(
            f"Where words name the subject, keys match within {calibration.hparams.named_eps:g}, the distance of "
            f"{MENTIONS:.0%} of the paraphrases."
        )
    if counts["locality"] * rate < 1:
        lines.append(
            f"A false-fire rate of {rate:g} is less than one of {counts['locality']} locality prompts. Use more "
            "records to measure it."
        )
    if counts["made"]:
        lines.append(
            f"{counts['made']} of {counts['records']} records have no question about another relation "
            "(relation_specificity). They were scored on other records' prompts, with their own subject put in."
        )
    if eps != AUTO:
        lines.append(
            f"eps is one radius for all keys, since eps: auto would find {key_layer.auto.found:.3f} of the paraphrases "
            f"and fire in {key_layer.auto.fires:.3f} of the locality prompts."
        )
    return lines


def key_layer_panel(results: Sequence[KeyLayerResult], chosen: KeyLayerResult, rate: float) -> PlotPanel:
    """Return the plot of the share of paraphrases found at a false-fire rate, by layer and distance."""
    layers = list(dict.fromkeys(result.layer for result in results))
    series = []
    for number, distance in enumerate(DISTANCES):
        columns = [(layers.index(result.layer), result) for result in results if result.distance == distance]
        auto_label = "" if number else "… eps: auto"
        series += [
            PlotSeries([(x, result.at(rate).found) for x, result in columns], distance, number),
            PlotSeries([(x, result.auto.found) for x, result in columns], auto_label, number, "crosses"),
        ]
    ticks, x_label = axis_labels(layers)
    return PlotPanel(
        f"Paraphrases found, {rate:.1%} of locality prompts fire",
        x_label,
        series,
        (layers.index(chosen.layer), chosen.at(rate).found),
        ticks=ticks,
        y_range=(-0.03, 1.03),
    )


def gate_panel(trials: Sequence[ScoredTrial], chosen: GateScores) -> PlotPanel:
    """Return the plot of relation specificity and locality against generality, one line through each trial's gates."""

    def position(scores: GateScores) -> tuple[float, float]:
        return scores.generality, scores.relation_specificity

    series = []
    for number, trial in enumerate(trials):
        # Gates with equal scores share one position, which is labelled with the narrowest of them.
        gate_labels: dict[Any, str] = {
            position(scores): "none" if scores.gate is None else f"{scores.gate:g}" for scores in reversed(trial.points)
        }
        locality = [(scores.generality, scores.locality) for scores in trial.points]
        label = short_layer_name(trial.layer)
        series += [
            PlotSeries([*map(position, trial.points)], label, number, notes=gate_labels),
            PlotSeries(locality, "… locality", number, "dotted"),
        ]
    y_label = "relation specificity, locality"
    return PlotPanel("Scores by gate radius", "generality", series, position(chosen), y_label)


def short_layer_name(layer: str) -> str:
    """Return the part of a layer's path that begins with the index of its block; the full path without an index."""
    parts = layer.split(".")
    begin = next((n for n, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[begin:])


def axis_labels(layers: Sequence[str]) -> tuple[list[str], str]:
    """Return the layers' labels on an axis, and the label of the axis."""
    names = [short_layer_name(layer) for layer in layers]
    blocks = [name.partition(".")[0] for name in names]
    modules = [name.partition(".")[2] for name in names]
    if len(set(modules)) == 1 and all(block.isdigit() for block in blocks):
        return blocks, f"block ({modules[0]})"
    return names, "layer"
