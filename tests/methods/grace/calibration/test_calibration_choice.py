"""The choices of a calibration: key layer, radius, gate and answer layer."""

from __future__ import annotations

import pytest

from easyedit_lifelong.methods.grace.calibration import choice
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import Gate, GateScores, Opening, ScoredTrial
from easyedit_lifelong.methods.grace.calibration.key_layer_study import WHITENED, KeyLayerResult, RadiusResult


def key_layer_result(
    layer: str, found_shares: list[float], auto: tuple[float, float] = (0.9, 0.0), mentions: float = 0.1
) -> KeyLayerResult:
    rates = (0.005, 0.01, 0.02, 0.05)
    common = tuple(RadiusResult(rate, 0.123456, share, rate) for rate, share in zip(rates, found_shares, strict=True))
    return KeyLayerResult(layer, WHITENED, 1.0, common, RadiusResult(None, 0.2, *auto), mentions)


def test_the_key_layer_that_finds_most_paraphrases_is_best() -> None:
    results = [
        key_layer_result("a", [0.5, 0.9, 0.9, 0.9], (0.8, 0.0)),
        key_layer_result("b", [0.5, 0.9, 0.9, 0.9], (0.9, 0.0)),
        key_layer_result("c", [0.9, 0.8, 1, 1], (1.0, 0.0)),
    ]
    assert choice.best_key_layer(results, 0.01).layer == "b"
    assert choice.best_key_layer(results, 0.02).layer == "c"


@pytest.mark.parametrize(
    ("auto", "n_locality", "eps"),
    [
        ((0.86, 0.0), 100, "auto"),
        ((0.85, 0.0), 100, 0.1234),
        ((0.9, 0.02), 100, "auto"),
        ((0.9, 0.03), 100, 0.1234),
        ((0.9, 1 / 20), 20, "auto"),
        ((0.9, 2 / 20), 20, 0.1234),
    ],
)
def test_eps_is_auto_unless_it_finds_too_few_or_fires_too_often(
    auto: tuple[float, float], n_locality: int, eps: float | str
) -> None:
    assert choice.choose_eps(key_layer_result("a", [0.5, 0.9, 0.9, 0.9], auto), 0.01, n_locality) == eps


@pytest.mark.parametrize(("mentions", "named_eps"), [(0.1173, 0.12), (0.0254, 0.026), (0.0, 0.001)])
def test_named_eps_contains_nearly_all_mentions(mentions: float, named_eps: float) -> None:
    assert choice.choose_named_eps(key_layer_result("a", [0.9] * 4, mentions=mentions)) == named_eps


def trial(layer: str, *scores: tuple[float | None, float, float]) -> ScoredTrial:
    return ScoredTrial(
        layer, 9, 9, tuple(GateScores(gate, 1.0, general, 1.0, specific) for gate, general, specific in scores)
    )


def test_the_narrowest_gate_is_chosen_that_keeps_enough_generality() -> None:
    first = trial("a", (0.3, 0.5, 0.9), (0.4, 0.72, 0.6), (0.5, 0.8, 0.2), (None, 0.8, 0.1))
    assert choice.narrowest_gate(first, 0.9).gate == 0.4
    assert choice.narrowest_gate(first, 1.0).gate == 0.5
    assert choice.narrowest_gate(trial("b", (0.3, 0.5, 0.9), (None, 0.8, 0.1)), 0.9).gate is None
    better = trial("c", (0.4, 0.75, 0.7), (None, 0.8, 0.1))
    assert choice.best_trial([first, better], 0.9) == (better, better.points[0])


def test_the_best_trial_has_the_largest_harmonic_mean_of_scores() -> None:
    even = trial("even", (None, 0.5, 0.5))  # harmonic mean 0.667, arithmetic mean 0.75
    for uneven in (trial("uneven", (None, 0.95, 0.33)), trial("none", (None, 1.0, 0.0))):
        assert choice.best_trial([uneven, even], 0.9)[0] is even
    better = trial("better", (None, 0.95, 0.35))
    assert choice.best_trial([even, better], 0.9)[0] is better


def test_the_best_gates_are_those_with_the_largest_auc() -> None:
    gates = [Gate(layer, score, (Opening(0.5, 1.0, 0.5),)) for layer, score in (("a", 0.6), ("b", 0.8), ("c", 0.7))]
    assert [gate.layer for gate in choice.best_gates(gates, 2)] == ["b", "c"]
