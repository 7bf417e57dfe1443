"""The inputs of a calibration: candidate layers, usable records, and the layers' inputs from one forward pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.calibration.candidate_layers import (
    candidate_answer_layers,
    candidate_key_layers,
    parse_layers,
)
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.usable_records import add_relation_probes, usable_records
from easyedit_lifelong.models.anatomy import anatomy_of
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.calibration_records import records
from tests.support.tiny_models import build_model, build_tokenizer

ROWS = [[4, 5, 6, 7, 8], [9, 10], [11, 12, 13], [9, 10]]


def test_lists_and_ranges_of_layers_are_parsed_and_others_refused() -> None:
    assert parse_layers("1-3, 6,2", "--layers") == [1, 2, 3, 6]
    assert parse_layers("2,transformer.h[3].mlp", "--layers") == [2, "transformer.h[3].mlp"]
    for wrong in ("", "1,", "3-1", "-2", "1;2", "2.5", "one two"):
        with pytest.raises(ModelError, match=r"--layers: .*isn't a list of blocks"):
            parse_layers(wrong, "--layers")


def test_default_key_layers_are_in_early_blocks_and_answer_layers_in_later_ones(family: str) -> None:
    model = build_model(family)
    key_layers = candidate_key_layers(model, None)
    answer_layers = candidate_answer_layers(model, None, key_layers)
    anatomy = anatomy_of(model)
    assert anatomy is not None
    assert [anatomy.block_of(path) for path in key_layers] == [1]
    assert [anatomy.block_of(path) for path in answer_layers] == [2, 3]
    width = model.config.hidden_size
    for path in key_layers:
        assert width in find_module(model, path)[1].weight.shape
    assert all(path.endswith(".mlp") for path in answer_layers)


def test_unsuitable_candidate_layers_are_refused_with_their_option(llama: Any) -> None:
    with pytest.raises(ModelError, match=r"--layers: LlamaForCausalLM has no block 7; it has 0 to 3"):
        candidate_key_layers(llama, [1, 7])
    with pytest.raises(ModelError, match=r"--layers: .*no layer 'model.layers.1.mlp.gate'"):
        candidate_key_layers(llama, ["model.layers.1.mlp.gate"])
    with pytest.raises(ModelError, match=r"--answer-layers: model.layers.1.mlp is in block 1, but .* up to block 2"):
        candidate_answer_layers(llama, [1, 3], ["model.layers.2.mlp.gate_proj"])
    with pytest.raises(ModelError, match=r"--answer-layers: .* too few blocks"):
        candidate_answer_layers(llama, None, ["model.layers.3.mlp.gate_proj"])
    with pytest.raises(ModelError, match="is no causal language model"):
        candidate_key_layers(nn.Sequential(nn.Linear(2, 2)), None)


def test_one_pass_reads_the_same_inputs_as_a_pass_for_each_layer(llama: Any) -> None:
    runner = Runner(llama, build_tokenizer())
    paths = ["model.layers.2.mlp.gate_proj", "model.layers.1.mlp.gate_proj"]
    layers = {path: find_module(llama, path)[1] for path in paths}
    inputs, ends = LayerInputs(runner, layers), LayerInputs(runner, layers, ends_only=True)

    def fail(*_: Any) -> None:
        raise AssertionError("a block above the last layer ran")

    llama.model.layers[3].register_forward_pre_hook(fail)
    progress: list[tuple[int, int]] = []
    inputs.read(ROWS, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (3, 3), "a row that is given twice was read twice"
    for path, layer in layers.items():
        inputs_by_row = zip(inputs.at(path, ROWS), ends.at(path, ROWS), inputs_at(runner, layer, ROWS), strict=True)
        for all_tokens, last_token, expected in inputs_by_row:
            assert torch.equal(all_tokens, expected)
            assert torch.equal(last_token, expected[-1:])
        assert not layer._forward_pre_hooks
    inputs.read(ROWS, lambda done, total: progress.append((done, total)))
    assert len(progress) == 1, "rows were read a second time"


def test_a_layer_that_the_model_does_not_run_is_refused(llama: Any) -> None:
    llama.unused = nn.Linear(2, 2)
    inputs = LayerInputs(Runner(llama, build_tokenizer()), {"unused": llama.unused})
    with pytest.raises(ModelError, match="unused gets no vector for every token"):
        inputs.at("unused", ROWS)


def test_incomplete_records_are_left_out_and_counted_by_what_they_lack(llama: Any) -> None:
    complete = records()
    incomplete = [
        dataclasses.replace(complete[0], subject=None),
        dataclasses.replace(complete[1], subject="Rome"),
        dataclasses.replace(complete[2], rephrase_prompts=()),
        dataclasses.replace(complete[3], rephrase_prompts=("old song",)),
        dataclasses.replace(complete[4], locality={}),
        dataclasses.replace(complete[5], prompt=" ".join(["king"] * 70)),
    ]
    scorer = Scorer(build_tokenizer())
    assert usable_records([*incomplete, *complete], scorer, llama) == complete
    with pytest.raises(DataError) as caught:
        usable_records([*incomplete, *complete[6:]], scorer, llama)
    assert str(caught.value).startswith("4 of 10 records can be used; a calibration needs 8 at least")
    for lack in (
        "subject;",
        "its subject in the prompt",
        "rephrase_prompt;",
        "its subject in rephrase_prompt",
        "locality;",
        "prompts that fit into the model's context.",
    ):
        assert f"1 without {lack}" in str(caught.value)


def test_relation_questions_are_borrowed_from_records_of_another_relation() -> None:
    with_probe = dataclasses.replace(records()[0], relation_specificity=(Probe("France is far", "away"),))
    completed, n_borrowed = add_relation_probes([with_probe, *records()[1:]])
    assert n_borrowed == 9
    assert completed[0].relation_specificity == with_probe.relation_specificity
    for number, request in enumerate(completed[1:], 1):
        relation = "{} made from green" if number % 2 == 0 else "the capital of {} is"
        answer = "snow" if number % 2 == 0 else "Paris"
        assert request.relation_specificity == (Probe(relation.format(request.subject), answer),)
    repeated, _ = add_relation_probes([with_probe, *records()[1:]])
    assert repeated == completed


def test_records_of_a_single_relation_are_refused() -> None:
    single_relation: list[EditRequest] = [dataclasses.replace(record, target_new="Rome") for record in records()]
    with pytest.raises(DataError, match="only 0 of 10 records ask something else about their subject"):
        add_relation_probes(single_relation)
