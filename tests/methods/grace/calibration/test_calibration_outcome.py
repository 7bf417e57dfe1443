"""A calibration's tables, verdict and plots."""

from __future__ import annotations

from pathlib import Path

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import Gate, GateScores, Opening, ScoredTrial
from easyedit_lifelong.methods.grace.calibration.choice import calibrated_values
from easyedit_lifelong.methods.grace.calibration.key_layer_study import COS, WHITENED, KeyLayerResult, RadiusResult
from easyedit_lifelong.methods.grace.calibration.outcome import axis_labels, outcome_of, short_layer_name, verdict
from easyedit_lifelong.methods.grace.calibration.study import Calibration, Settings, Steps
from easyedit_lifelong.reporting.calibrate_outcome import markdown_table, panels_images
from tests.support.calibration_records import values


def calibration(
    tmp_path: Path,
    eps: float | str = "auto",
    gate: float | None = 0.4,
    rate: float = 0.01,
    named_eps: float | None = None,
) -> Calibration:
    common = tuple(RadiusResult(rate, 0.1, 0.75, rate) for rate in (0.005, 0.01, 0.02, 0.05))
    key_layers = [
        KeyLayerResult(f"h.{block}.c_fc", distance, 0.9, common, RadiusResult(None, 0.2, 0.875, 0.03), 0.117)
        for block in (1, 2)
        for distance in (COS, WHITENED)
    ]
    points = (GateScores(0.4, 1.0, 0.7, 0.99, 0.6), GateScores(None, 1.0, 0.75, 0.98, 0.25))
    trial = ScoredTrial("h.9.mlp", 20, 19, points)
    steps = Steps(key_layers, [Gate("h.9.mlp", 0.8125, (Opening(0.4, 0.8, 0.3), Opening(0.6, 1.0, 0.6)))], [trial])
    point = next(point for point in points if point.gate == gate)
    counts = {"given": 60, "records": 50, "paraphrases": 48, "locality": 50, "made": 7}
    chosen = calibrated_values(key_layers[1], eps, rate, trial.layer, gate, named_eps)
    hparams = GraceHyperParams.from_values({**values(tmp_path, "tiny"), **chosen}, "test")
    settings = Settings(None, None, rate)
    return Calibration(settings, steps, counts, key_layers[1], eps, trial, point, chosen, hparams)


def test_the_tables_hold_the_studies_and_mark_the_choice(tmp_path: Path) -> None:
    outcome = outcome_of(calibration(tmp_path))
    key_layers, gates, trials = outcome.tables
    assert key_layers.headers[2:-3] == [
        "nearest is right",
        *(f"found at {rate}" for rate in ("0.5%", "1.0%", "2.0%", "5.0%")),
    ]
    assert key_layers.rows[1] == ["1.c_fc", WHITENED, "0.900", *["0.750"] * 4, "0.875", "0.030", ""]
    assert [row[-1] for row in key_layers.rows].count("←") == 1
    assert gates.rows == [["9.mlp", "0.812", "0.300 (0.40)", "0.300 (0.40)", "0.600 (0.60)", "0.600 (0.60)"]]
    assert trials.rows == [
        ["0.40", "1.000", "0.700", "0.990", "0.600", "←"],
        ["none", "1.000", "0.750", "0.980", "0.250", ""],
    ]
    lines = markdown_table(trials).splitlines()
    assert lines[0] == "**20 edits that answer at h.9.mlp**"
    assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert {line.count("|") for line in lines[2:]} == {7}
    assert len(outcome.short_tables[0].headers) == len(key_layers.headers) - 3


def test_the_verdict_gives_the_choice_and_its_numbers(tmp_path: Path) -> None:
    key_layer, answer_layer, resolution, borrowed = verdict(calibration(tmp_path))
    assert "h.1.c_fc, by cos, whitened, with eps auto: 0.875 of the paraphrases find their key, and 0.030" in key_layer
    assert "gate_eps 0.4: the narrowest gate" in answer_layer and "0.600 (0.250 without a gate)" in answer_layer
    assert "less than one of 50 locality prompts" in resolution
    assert borrowed.startswith("7 of 50 records")
    lines = verdict(calibration(tmp_path, 0.1, None, 0.02))
    assert "eps 0.1: 0.750 of the paraphrases find their key, and 0.020" in lines[0]
    assert "without a gate: behind every gate that was tried, generality is less than 0.9 of the 0.750" in lines[1]
    assert "eps: auto would find 0.875 of the paraphrases and fire in 0.030" in lines[-1]
    assert len(lines) == 4
    lines = verdict(calibration(tmp_path, rate=0.02, named_eps=0.12))
    assert lines[2] == "Where words name the subject, keys match within 0.12, the distance of 99% of the paraphrases."


def test_equal_studies_give_equal_plots_and_other_gates_give_others(tmp_path: Path) -> None:
    png, svg = panels_images(outcome_of(calibration(tmp_path)).panels)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert "</svg>" in svg
    assert (png, svg) == panels_images(outcome_of(calibration(tmp_path)).panels)
    other = panels_images(outcome_of(calibration(tmp_path, gate=None)).panels)
    assert png != other[0] and svg != other[1]


def test_layers_have_short_names_and_axes_name_their_common_part() -> None:
    assert short_layer_name("model.layers.2.mlp.gate_proj") == "2.mlp.gate_proj"
    assert short_layer_name("encoder.first") == "encoder.first"
    assert axis_labels(["h.1.c_fc", "h.12.c_fc"]) == (["1", "12"], "block (c_fc)")
    assert axis_labels(["h.1.c_fc", "h.2.attn"]) == (["1.c_fc", "2.attn"], "layer")
    assert axis_labels(["first", "second"]) == (["first", "second"], "layer")
