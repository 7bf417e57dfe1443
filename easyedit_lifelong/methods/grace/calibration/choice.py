"""The rules by which a calibration chooses; each can be stated in a sentence."""

from __future__ import annotations

import decimal
import statistics
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.grace.calibration.answering import Gate, Point, Trial
from easyedit_lifelong.methods.grace.calibration.finding import WHITENED, Finding, dist_fn_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams

AUTO = "auto"
_AUTO_FINDS = 0.95
"""``eps: auto`` is kept if it finds this share of what one radius for all keys does …"""
_AUTO_FIRES = 2.0
"""… and fires in at most so many times the permitted number of locality prompts, or in one prompt."""


def best_finding(findings: Sequence[Finding], rate: float) -> Finding:
    """Return the layer and distance that find most paraphrases at a rate; of equals, most by ``eps: auto``."""
    return max(findings, key=lambda one: (one.at(rate).found, one.auto.found))


def eps_of(finding: Finding, rate: float, n_locality: int) -> float | str:
    """Return the radius to write down: ``auto``, unless that finds less or fires more than one radius for all keys."""
    common, auto = finding.at(rate), finding.auto
    finds = auto.found >= _AUTO_FINDS * common.found
    stays = auto.fires * n_locality <= max(1.0, _AUTO_FIRES * rate * n_locality) + 1e-6
    # Four digits, none of which makes the radius wider.
    rounding = decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR)
    return AUTO if finds and stays else float(rounding.create_decimal(common.eps))


def best_gates(gates: Sequence[Gate], count: int) -> list[Gate]:
    """Return the layers whose gates separate paraphrases from other questions best, the best first."""
    return sorted(gates, key=lambda gate: gate.auc, reverse=True)[:count]


def values_of(
    finding: Finding, eps: float | str, rate: float, answer_layer: str, gate_eps: float | None
) -> dict[str, Any]:
    """Return the hyperparameters of where subjects are found and edits answer, by name."""
    return {
        "query_token": "subject_last",
        "inner_params": [f"{finding.layer}.weight"],
        "dist_fn": dist_fn_of(finding.distance),
        "whiten": finding.distance == WHITENED,
        "eps": eps,
        "false_fire_rate": rate,
        "answer_layer": answer_layer,
        "gate_eps": gate_eps,
    }


def narrowest(trial: Trial, share: float) -> Point:
    """Return the narrowest gate at which generality is at least a share of what it is with none."""
    least = share * trial.points[-1].generality - 1e-9  # rounding apart
    return next(point for point in trial.points if point.generality >= least)


def best_trial(trials: Sequence[Trial], share: float) -> tuple[Trial, Point]:
    """Return the layer whose edits score best behind their narrowest gate, by the harmonic mean of all four scores."""
    chosen = [(trial, narrowest(trial, share)) for trial in trials]
    return max(chosen, key=lambda one: statistics.harmonic_mean(one[1].scores))


def with_values(hparams: GraceHyperParams, values: dict[str, Any]) -> GraceHyperParams:
    """Return hyperparameters with some replaced.

    Raises:
        HyperParameterError: they contradict each other.
    """
    return GraceHyperParams.from_values({**hparams.to_dict(), **values}, hparams.source)
