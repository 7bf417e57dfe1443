"""The search spaces of all methods: every candidate fits the model, and stages begin with the layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.methods.search_space import SearchStage
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.hyperparameter_files import load_hparams
from tests.conformance.method_cases import CASES, MethodCase
from tests.support.tiny_models import build_model, build_tokenizer, smollm2_without_weights

SEARCHABLE = {"GRACE", "CoachHook", "MEMIT-native", "AlphaEdit", "ROME-native", "UltraEdit", "NeuralDB"}
SEARCHED_CASES = [
    case
    for case in CASES
    if case.name.removesuffix("-native").split("-")[0] in {name.removesuffix("-native") for name in SEARCHABLE}
    and case.name not in ("GRACE-subject", "AlphaEdit-variants")
    # GRACE by subjects is calibrated by other steps; BLUE refuses a single layer.
]
TARGETS = ("layers", "v_lr", "clamp_norm_factor")
"""What is searched for every method with target vectors."""


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model("llama")


def stages_of(hparams: Any, blocks: list[int] | None = None) -> list[SearchStage]:
    method = get_plugins().method_for(hparams)
    assert method is not None and method.search_space is not None
    return list(method.search_space.stages(hparams, blocks))


def test_these_methods_have_a_search_space() -> None:
    assert {method.name for method in get_plugins().methods if method.search_space is not None} == SEARCHABLE


@pytest.mark.parametrize("case", SEARCHED_CASES, ids=lambda case: case.name)
def test_every_candidate_sets_the_fields_of_its_stage_and_fits_the_model(case: MethodCase, model: Any) -> None:
    hparams, method = case.hparams(), case.method
    tried = set()
    for stage in stages_of(hparams):
        for values in stage.candidates(hparams, model):
            assert set(values) <= set(stage.fields)
            assert method.check is not None
            method.check(model, build_tokenizer(), dataclasses.replace(hparams, **values))
            tried |= values.keys()
    assert tried & {"layers", "inner_params"}
    assert tried - {"layers", "inner_params"}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("CoachHook/smollm2-135m", {*TARGETS, "mom2_update_weight", "alpha_z", "alpha_floor"}),
        ("CoachHook/smollm2-135m-codebook", {*TARGETS, "mom2_update_weight", "scope_layer", "false_fire_rate"}),
        ("AlphaEdit/smollm2-135m", {*TARGETS, "nullspace_threshold", "L2"}),
        ("MEMIT-native/smollm2-135m", {*TARGETS, "mom2_update_weight"}),
        ("ROME-native/smollm2-135m", {*TARGETS, "v_weight_decay", "mom2_adjustment"}),
        ("NeuralDB/smollm2-135m", {*TARGETS, "gamma"}),
        ("UltraEdit/smollm2-135m", {"inner_params", "lr"}),
        ("GRACE/smollm2-135m", {"inner_params", "eps"}),
    ],
)
def test_what_is_searched_for_a_shipped_file(file: str, expected: set[str]) -> None:
    hparams, model = load_hparams(file), smollm2_without_weights()
    tried = {name for stage in stages_of(hparams) for values in stage.candidates(hparams, model) for name in values}
    assert tried == expected


def test_given_blocks_replace_the_layers_that_a_method_would_try(model: Any) -> None:
    hparams = next(case for case in CASES if case.name == "NeuralDB").hparams()
    first, second, *_ = stages_of(hparams, [1, 3])
    assert first.candidates(hparams, model) == [{"layers": [1]}, {"layers": [3]}]
    assert second.fields != first.fields


def test_ultraedits_step_is_searched_between_1e_6_and_1e_3(model: Any) -> None:
    hparams = next(case for case in CASES if case.name == "UltraEdit").hparams()
    etas = [values["lr"] for values in stages_of(hparams)[0].candidates(hparams, model)]
    assert (min(etas), max(etas)) == (1e-6, 1e-3)


def test_hook_layers_below_the_scope_layer_are_not_tried(model: Any) -> None:
    case = next(case for case in CASES if case.name == "CoachHook-codebook")
    hparams = dataclasses.replace(case.hparams(), layers=[2], scope_layer="model.layers.2.mlp.gate_proj")
    layers = [values["layers"] for values in stages_of(hparams)[0].candidates(hparams, model)]
    assert layers == [[2], [3]]


def test_second_moments_of_all_candidates_are_collected_in_one_pass(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.name == "MEMIT-native")
    hparams = case.hparams()
    asked: list[list[str]] = []
    monkeypatch.setattr(
        "easyedit_lifelong.methods.locate_edit.search_stages.named_moments",
        lambda model, tok, paths, hparams, progress: asked.append(list(paths)),
    )
    space = case.method.search_space
    assert space is not None and space.prepare is not None
    candidates = [dataclasses.replace(hparams, **values) for values in stages_of(hparams)[0].candidates(hparams, model)]
    space.prepare(model, build_tokenizer(), [hparams, *candidates], lambda *_: None)
    assert len(asked) == 1
    assert set(asked[0]) == {f"model.layers.{block}.mlp.down_proj" for block in range(4)}
