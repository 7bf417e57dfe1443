"""A calibration's plot: where paraphrases are found, and what a gate trades."""

from __future__ import annotations

import io

from matplotlib.axes import Axes

from easyedit_lifelong.calibration.finding import DISTANCES, Finding
from easyedit_lifelong.calibration.study import Calibration, Settings
from easyedit_lifelong.calibration.trials import Trial
from easyedit_lifelong.reporting.calibrate_tables import short_name
from easyedit_lifelong.reporting.report.generations import clean
from easyedit_lifelong.reporting.report.style import INK, MUTED, SERIES, drawing, look, new_figure

_DOTS = 120


def calibration_png(calibration: Calibration, settings: Settings) -> bytes:
    """Return the plot as a PNG file's bytes.

    Left: the share of paraphrases found at the false-fire rate asked for, layer by layer, a line for each distance.
    Right: generality against relation specificity (and locality, dotted) as the gate opens, a line for each
    answering layer. What was picked is in a circle.
    """
    steps, choice = calibration.steps, calibration.choice
    assert steps.findings is not None
    with drawing():
        figure = new_figure(11.0, 4.2)
        left, right = figure.subplots(1, 2)
        _found(left, steps.findings, choice.finding, settings.false_fire_rate)
        for number, trial in enumerate(steps.trials):
            _trade(right, trial, number)
        right.plot(
            [choice.point.generality], [choice.point.relation_specificity], linestyle="none", marker="o",
            markersize=13, markerfacecolor="none", markeredgecolor=INK,
        )  # fmt: skip
        right.set_title("What the gate trades")
        right.set_xlabel("generality")
        right.set_ylabel("relation specificity, locality")
        for axes in (left, right):
            axes.legend(loc="best")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue()


def _found(axes: Axes, findings: list[Finding], best: Finding, rate: float) -> None:
    layers = list(dict.fromkeys(one.layer for one in findings))
    for number, distance in enumerate(DISTANCES):
        several = [one for one in findings if one.distance == distance]
        at = [layers.index(one.layer) for one in several]
        axes.plot(at, [one.at(rate).found for one in several], label=distance, **look(number))
        axes.plot(
            at, [one.auto.found for one in several], color=SERIES[number], linestyle="none", marker="x",
            label="… eps: auto" if not number else None,
        )  # fmt: skip
    axes.plot(
        [layers.index(best.layer)], [best.at(rate).found], linestyle="none", marker="o", markersize=13,
        markerfacecolor="none", markeredgecolor=INK,
    )  # fmt: skip
    axes.set_title(clean(f"Paraphrases found, {rate:.1%} of locality prompts fire"))
    names, axis = _ticks(layers)
    axes.set_xticks(range(len(layers)), names)
    axes.set_xlabel(axis)
    axes.set_ylim(-0.03, 1.03)


def _trade(axes: Axes, trial: Trial, number: int) -> None:
    style, general = look(number), [point.generality for point in trial.points]
    specific = [point.relation_specificity for point in trial.points]
    axes.plot(general, specific, label=clean(short_name(trial.layer)), **style)
    axes.plot(
        general, [point.locality for point in trial.points], color=style["color"], linestyle="dotted", linewidth=1.2,
        label="… locality",
    )  # fmt: skip
    # Gates that let the same through are one dot: the narrowest names it.
    told = {(point.generality, point.relation_specificity): point.gate for point in reversed(trial.points)}
    for place, gate in told.items():
        axes.annotate(
            "none" if gate is None else f"{gate:g}", place, xytext=(4, 4), textcoords="offset points", fontsize=7,
            color=MUTED,
        )  # fmt: skip


def _ticks(layers: list[str]) -> tuple[list[str], str]:
    """Return what the layers are called on the axis, and what the axis is called."""
    names = [clean(short_name(layer)) for layer in layers]
    numbers, modules = zip(*(name.partition(".")[::2] for name in names), strict=True)
    if len(set(modules)) == 1 and all(number.isdigit() for number in numbers):
        return list(numbers), f"block ({modules[0]})"
    return names, "layer"
