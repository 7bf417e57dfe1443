"""The rules by which a calibration chooses hyperparameters."""

from __future__ import annotations

import decimal
import statistics
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.grace.calibration.answer_layer_study import Gate, GateScores, ScoredTrial
from easyedit_lifelong.methods.grace.calibration.key_layer_study import WHITENED, KeyLayerResult, dist_fn_of
from easyedit_lifelong.methods.grace.config import GraceHyperParams

AUTO = "auto"
"""The value of ``eps`` that derives each key's radius from its neighbourhood."""

_AUTO_MIN_FOUND = 0.95
"""``eps: auto`` must find at least as many paraphrases as a common radius, times this factor."""

_AUTO_MAX_FIRES = 2.0
"""``eps: auto`` may fire in at most the permitted number of locality prompts, times this factor; but always in one."""


_LEAST_NAMED_EPS = 1e-3
"""``named_eps`` must be more than 0, also where every paraphrase has exactly its key."""


def best_key_layer(results: Sequence[KeyLayerResult], rate: float) -> KeyLayerResult:
    """Return the result whose layer and distance find the most paraphrases at a false-fire rate.

    If several find equally many, return the one that finds the most with ``eps: auto``.
    """
    return max(results, key=lambda result: (result.at(rate).found, result.auto.found))


def choose_eps(result: KeyLayerResult, rate: float, n_locality: int) -> float | str:
    """Return ``auto``, or the common radius if ``eps: auto`` finds too few paraphrases or fires too often.

    Args:
        result: the chosen key layer and distance.
        rate: the permitted false-fire rate.
        n_locality: number of locality prompts.
    """
    common, auto = result.at(rate), result.auto
    finds_enough = auto.found >= _AUTO_MIN_FOUND * common.found
    n_fires, max_fires = auto.fires * n_locality, max(1.0, _AUTO_MAX_FIRES * rate * n_locality)
    fires_rarely = n_fires <= max_fires + 1e-6  # tolerance for rounding
    # Round down: a wider radius could fire more often than was measured.
    rounding = decimal.Context(prec=4, rounding=decimal.ROUND_FLOOR)
    return AUTO if finds_enough and fires_rarely else float(rounding.create_decimal(common.eps))


def best_gates(gates: Sequence[Gate], count: int) -> list[Gate]:
    """Return the ``count`` gates that separate paraphrases from other questions best, by descending AUC."""
    return sorted(gates, key=lambda gate: gate.auc, reverse=True)[:count]


def choose_named_eps(result: KeyLayerResult) -> float:
    """Return the least radius of a key where words name its subject: the one that contains nearly all mentions.

    Other texts with the same words are about the same subject, so that nothing but this share limits the radius.
    """
    rounding = decimal.Context(prec=2, rounding=decimal.ROUND_CEILING)
    return max(float(rounding.create_decimal(result.mentions)), _LEAST_NAMED_EPS)


def calibrated_values(
    result: KeyLayerResult,
    eps: float | str,
    rate: float,
    answer_layer: str,
    gate_eps: float | None,
    named_eps: float | None,
) -> dict[str, Any]:
    """Return the values of the calibrated hyperparameters, by name; without ``named_eps``, words are not compared."""
    return {
        "query_token": "subject_last",
        "inner_params": [f"{result.layer}.weight"],
        "dist_fn": dist_fn_of(result.distance),
        "whiten": result.distance == WHITENED,
        "eps": eps,
        "false_fire_rate": rate,
        "answer_layer": answer_layer,
        "gate_eps": gate_eps,
        **({} if named_eps is None else {"named_eps": named_eps}),
    }


def narrowest_gate(trial: ScoredTrial, share: float) -> GateScores:
    """Return the narrowest gate whose generality is at least ``share`` of the generality without a gate."""
    least = share * trial.points[-1].generality - 1e-9  # tolerance for rounding
    return next(scores for scores in trial.points if scores.generality >= least)


def best_trial(trials: Sequence[ScoredTrial], share: float) -> tuple[ScoredTrial, GateScores]:
    """Return the trial with the best scores at its narrowest gate, and these scores.

    Trials are compared by the harmonic mean of their four scores.

    Args:
        trials: one trial for each answer layer.
        share: see :func:`narrowest_gate`.
    """
    candidates = [(trial, narrowest_gate(trial, share)) for trial in trials]
    return max(candidates, key=lambda candidate: statistics.harmonic_mean(candidate[1].scores))


def with_values(hparams: GraceHyperParams, values: dict[str, Any]) -> GraceHyperParams:
    """Return a copy of hyperparameters with some values replaced.

    Raises:
        HyperParameterError: the values contradict each other.
    """
    return GraceHyperParams.from_values({**hparams.to_dict(), **values}, hparams.source)
