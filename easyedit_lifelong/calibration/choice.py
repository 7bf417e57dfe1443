"""What a calibration picks, by rules that can be said in a sentence each."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.calibration.finding import WHITENED, Finding, dist_fn_of
from easyedit_lifelong.calibration.gates import Gate
from easyedit_lifelong.calibration.trials import Point, Trial
from easyedit_lifelong.methods.grace.config import GraceHyperParams

AUTO = "auto"
_AUTO_FINDS = 0.95
"""``eps: auto`` is kept if it finds this share of what one radius for all keys does …"""
_AUTO_FIRES = 2.0
"""… and fires in no more than so many times the locality prompts that it was allowed, or in one."""


def best_finding(findings: Sequence[Finding], rate: float) -> Finding:
    """Return the layer and distance that find most paraphrases at a rate; of equals, most by ``eps: auto``."""
    return max(findings, key=lambda one: (one.at(rate).found, one.auto.found))


def eps_of(finding: Finding, rate: float, n_locality: int) -> float | str:
    """Return the radius to write down: ``auto``, unless that finds less or fires more than one radius for all keys."""
    common, auto = finding.at(rate), finding.auto
    finds = auto.found >= _AUTO_FINDS * common.found
    stays = auto.fires * n_locality <= max(1.0, _AUTO_FIRES * rate * n_locality) + 1e-6
    return AUTO if finds and stays else _rounded_down(common.eps)


def best_gates(gates: Sequence[Gate], count: int) -> list[Gate]:
    """Return the layers whose gates tell a paraphrase best from another question, the best first."""
    return sorted(gates, key=lambda gate: gate.auc, reverse=True)[:count]


@dataclass(frozen=True)
class Choice:
    """What is picked.

    Attributes:
        finding: where subjects are found, and by which distance.
        eps: their radius.
        trial: where edits answer.
        point: behind which gate.
    """

    finding: Finding
    eps: float | str
    trial: Trial
    point: Point

    def values(self, rate: float) -> dict[str, Any]:
        """Return the hyperparameters that are picked, by name."""
        return {
            **values_of(self.finding, self.eps, rate), "answer_layer": self.trial.layer, "gate_eps": self.point.gate,
        }  # fmt: skip


def values_of(finding: Finding, eps: float | str, rate: float) -> dict[str, Any]:
    """Return the hyperparameters of where subjects are found, by name."""
    return {
        "query_token": "subject_last", "inner_params": [f"{finding.layer}.weight"],
        "dist_fn": dist_fn_of(finding.distance), "whiten": finding.distance == WHITENED, "eps": eps,
        "false_fire_rate": rate,
    }  # fmt: skip


def narrowest(trial: Trial, share: float) -> Point:
    """Return the narrowest gate at which generality is at least a share of what it is with none."""
    least = share * trial.points[-1].generality - 1e-9  # rounding apart
    return next(point for point in trial.points if point.generality >= least)


def best_trial(trials: Sequence[Trial], share: float) -> tuple[Trial, Point]:
    """Return the layer whose edits score best behind their narrowest gate: by the harmonic mean of all four scores."""
    picked = [(trial, narrowest(trial, share)) for trial in trials]
    return max(picked, key=lambda one: harmonic(one[1]))


def harmonic(point: Point) -> float:
    """Return the harmonic mean of a point's scores; 0 if one of them is."""
    scores = (point.reliability, point.generality, point.locality, point.relation_specificity)
    return len(scores) / sum(1 / score for score in scores) if all(score > 0 for score in scores) else 0.0


def with_values(hparams: GraceHyperParams, values: dict[str, Any]) -> GraceHyperParams:
    """Return hyperparameters with some replaced.

    Raises:
        HyperParameterError: they can't be had together.
    """
    return GraceHyperParams.from_values({**hparams.to_dict(), **values}, hparams.source)


def _rounded_down(radius: float) -> float:
    """Return a radius with four digits, none of which makes it wider."""
    return float(decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR).create_decimal(radius))
