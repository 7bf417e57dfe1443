"""The editor: what a batch trains on, and that nothing but the weights and the records is needed to continue."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    EditError,
    EditRequest,
    FTEWCHyperParams,
    FTHyperParams,
    FTLHyperParams,
    FTRetrainHyperParams,
    LocFTBFHyperParams,
    ModelError,
    apply_finetune_to_model,
    load_edits,
    rollback_to_batch,
    save_edits,
)
from easyedit_lifelong.methods.finetune import editor as editor_module
from easyedit_lifelong.methods.finetune.config import FineTuneHyperParams
from easyedit_lifelong.methods.finetune.editor import EDITORS, FineTuneEditor
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.training.examples import Example, encode_record, encode_request
from easyedit_lifelong.models.load import context_length
from tests.conformance.method_cases import REQUESTS
from tests.support.tiny_models import build_model, build_tokenizer, state_of

PATH = "model.layers.2.mlp.down_proj"
PLACE: dict[str, Any] = {"model_name": "tiny", "layers": [2], "rewrite_module_tmp": "model.layers.{}.mlp.down_proj"}
WITH_HISTORY = [
    FTEWCHyperParams(**PLACE, stop_when_correct=False, num_steps=5, ewc_lambda=100),
    FTRetrainHyperParams(**PLACE, stop_when_correct=False, num_steps=5, retrain_frequency=2),
    LocFTBFHyperParams(**PLACE, lr=1e-2, num_steps=5, examples_per_step=1),
]
each_with_history = pytest.mark.parametrize("hparams", WITH_HISTORY, ids=lambda hparams: hparams.ALG_NAME)


def edit(model: Any, hparams: FineTuneHyperParams, requests: list[dict[str, Any]]) -> Any:
    return apply_finetune_to_model(model, build_tokenizer(), requests, hparams)[1]


def request_of(request: dict[str, Any]) -> EditRequest:
    return EditRequest.from_dict(request, "a test")


def weight_of(model: Any, path: str = PATH) -> torch.Tensor:
    return model.get_submodule(path).weight.detach().clone()


def editor_of(model: Any, hparams: FineTuneHyperParams) -> FineTuneEditor:
    (editor_class,) = (editor for editor in EDITORS if isinstance(hparams, editor.hparams_class))
    return editor_class.require(model)


# ------------------------------------------------------------------ learning


def test_ft_stops_as_soon_as_the_model_predicts_the_target(llama: Any) -> None:
    hparams = FTHyperParams(**PLACE)
    results = edit(llama, hparams, REQUESTS).results
    assert all(result.learned and result.steps < hparams.num_steps for result in results)
    # GRACE compares each prediction with the token before the one that it predicts. By that measure, the last edit is
    # not learned, and GRACE would continue to train on it.
    example = encode_request(build_tokenizer(), request_of(REQUESTS[-1]), False, context_length(llama)).example
    predictions = llama(torch.tensor([example.tokens])).logits[0].argmax(dim=1).tolist()
    count = len(example.target)
    assert tuple(predictions[-count - 1 : -1]) == example.target
    assert tuple(predictions[-count:]) != example.target


def test_an_edit_that_is_not_learned_says_so_and_reports_the_loss_of_the_edited_model(llama: Any) -> None:
    (result,) = edit(llama, FTHyperParams(**PLACE, lr=1e-6, num_steps=3), REQUESTS[:1]).results
    assert (result.learned, result.steps) == (False, 3)
    example = encode_request(build_tokenizer(), request_of(REQUESTS[0]), False, None).example
    log_probs = llama(torch.tensor([example.tokens])).logits[0].log_softmax(dim=1)
    expected = -log_probs[len(example.prompt) - 1, example.target[0]]
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert result.seconds > 0
    assert result.detail == {"batch": 1, "earlier_edits": 0}


def test_depth_first_trains_requests_one_after_another_and_breadth_first_together() -> None:
    settings: dict[str, Any] = {**PLACE, "batch_size": 4, "stop_when_correct": False, "num_steps": 4}
    one_by_one, depth, breadth = (build_model("llama") for _ in range(3))
    edit(one_by_one, FTHyperParams(**{**settings, "batch_size": 1}), REQUESTS)
    depth_results = edit(depth, FTHyperParams(**settings), REQUESTS).results
    breadth_results = edit(breadth, FTHyperParams(**settings, order="breadth-first", examples_per_step=2), REQUESTS)
    torch.testing.assert_close(weight_of(depth), weight_of(one_by_one), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(weight_of(breadth), weight_of(depth), atol=1e-3)
    assert [result.steps for result in depth_results] == [4] * 4
    assert [result.steps for result in breadth_results.results] == [8] * 4
    assert len(editor_of(depth, FTHyperParams(**settings)).state.batches) == 1


def test_half_precision_weights_are_trained_in_float32() -> None:
    model = build_model("llama", torch.bfloat16)
    before = weight_of(model)
    # Each step moves a weight by about 1e-5, which is less than bfloat16 resolves for weights of this size.
    hparams = FTHyperParams(**PLACE, lr=1e-5, num_steps=10, stop_when_correct=False)
    edit(model, hparams, REQUESTS[:1])
    update = editor_of(model, hparams).state.batches[0].layers[PATH]
    delta = update.added_to(None)
    assert delta.dtype == torch.float32
    assert float(delta.abs().median()) > 5e-5
    assert weight_of(model).dtype == torch.bfloat16
    torch.testing.assert_close(weight_of(model), (before.float() + delta).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_several_layers_are_trained_at_once_and_an_update_has_the_shape_of_its_layer(family: str) -> None:
    template = {"gpt2": "transformer.h.{}.mlp.c_fc", "llama": "model.layers.{}.mlp.up_proj"}[family]
    model = build_model(family)
    hparams = FTHyperParams(model_name="tiny", layers=[1, 3], rewrite_module_tmp=template, num_steps=5)
    edit(model, hparams, REQUESTS[:1])
    layers = editor_of(model, hparams).state.batches[0].layers
    assert list(layers) == [template.format(1), template.format(3)]
    width = {"gpt2": 128, "llama": 48}[family]
    for update in layers.values():
        assert update.shape == (32, width)
        assert float(update.added_to(None).abs().max()) > 0


# ------------------------------------------------------------------ the limit on the change


@pytest.mark.parametrize(("center", "largest"), [("batch", 0.003), ("base", 0.001)])
def test_ft_l_limits_the_change_of_each_batch_or_of_all(llama: Any, center: str, largest: float) -> None:
    start = weight_of(llama)
    edit(llama, FTLHyperParams(**PLACE, norm_constraint=1e-3, norm_center=center, stop_loss=0), REQUESTS[:3])
    change = float((weight_of(llama) - start).abs().max())
    assert change <= largest + 1e-6
    assert change > 0.9 * largest or center == "batch"
    assert change > 1.2e-3 or center == "base", "three batches moved no weight in one direction"


# ------------------------------------------------------------------ earlier edits


@each_with_history
def test_edits_after_loading_and_after_a_rollback_are_those_without(
    hparams: FineTuneHyperParams, tmp_path: Path
) -> None:
    whole = build_model("llama")
    edit(whole, hparams, REQUESTS[:3])
    save_edits(whole, tmp_path)
    edit(whole, hparams, REQUESTS[3:])
    expected = state_of(whole)

    loaded = build_model("llama")
    load_edits(loaded, tmp_path, tokenizer=build_tokenizer())
    results = edit(loaded, hparams, REQUESTS[3:]).results
    assert results[0].detail["earlier_edits"] > 0
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())

    rollback_to_batch(loaded, 2)
    edit(loaded, hparams, REQUESTS[2:])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


@each_with_history
def test_each_earlier_edit_is_encoded_once(hparams: FineTuneHyperParams, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int | str] = []

    def counting(tokenizer: Any, record: EditRecord, eos: bool) -> Example:
        encoded.append(record.case_id)
        return encode_record(tokenizer, record, eos)

    monkeypatch.setattr(editor_module, "encode_record", counting)
    model, hparams = build_model("llama"), dataclasses.replace(hparams, num_steps=1)
    first, second, third, fourth = REQUESTS
    edit(model, hparams, [first, second, third])
    assert encoded == [first["case_id"], second["case_id"]]
    rollback_to_batch(model, 1)
    edit(model, hparams, [fourth, third])
    assert encoded[2:] == [fourth["case_id"]]


@each_with_history
def test_earlier_edits_change_what_is_trained(hparams: FineTuneHyperParams) -> None:
    model, without = build_model("llama"), build_model("llama")
    edit(model, hparams, REQUESTS)
    off = {"ewc_lambda": 0.0, "retrain_frequency": None, "with_history": False}
    edit(without, dataclasses.replace(hparams, **off), REQUESTS)
    assert not torch.allclose(weight_of(model), weight_of(without), atol=1e-4)


def test_the_number_of_earlier_edits_that_each_method_uses() -> None:
    def used(hparams: FineTuneHyperParams, requests: list[dict[str, Any]]) -> list[int]:
        return [result.detail["earlier_edits"] for result in edit(build_model("llama"), hparams, requests).results]

    ewc, retrain, locft = (dataclasses.replace(hparams, num_steps=1) for hparams in WITH_HISTORY)
    assert used(ewc, REQUESTS) == [0, 1, 2, 3]
    assert used(dataclasses.replace(ewc, fisher_mem=2), REQUESTS) == [0, 1, 2, 2]  # type: ignore[arg-type]
    assert used(retrain, REQUESTS) == [0, 1, 0, 3]
    assert used(dataclasses.replace(retrain, retrain_memory=2), REQUESTS) == [0, 1, 0, 2]  # type: ignore[arg-type]
    assert used(dataclasses.replace(retrain, batch_size=3), REQUESTS) == [0, 1, 0, 3]  # type: ignore[arg-type]
    assert used(locft, REQUESTS) == [0, 1, 2, 3]
    depth_first = dataclasses.replace(locft, order="depth-first")  # type: ignore[arg-type]
    assert used(depth_first, REQUESTS) == [0, 0, 0, 0]
    again = {**REQUESTS[0], "case_id": "again", "target_new": "violin"}
    # The new answer replaces the old one, which must be neither trained nor protected any more.
    assert used(locft, [*REQUESTS[:2], again]) == [0, 1, 1]
    assert used(ewc, [*REQUESTS[:2], again, REQUESTS[2]]) == [0, 1, 1, 2]
    assert used(dataclasses.replace(retrain, retrain_frequency=3), [*REQUESTS[:2], again]) == [0, 0, 1]  # type: ignore[arg-type]


def test_locft_bf_keeps_earlier_edits_that_it_loses_without_their_replay() -> None:
    def kept(with_history: bool) -> list[bool]:
        model = build_model("llama")
        hparams = LocFTBFHyperParams(
            **{**PLACE, "layers": [0]}, lr=2e-2, num_steps=60, with_history=with_history, eos=False
        )
        edit(model, hparams, REQUESTS)
        tokenizer, learned = build_tokenizer(), []
        for request in REQUESTS:
            example = encode_request(tokenizer, request_of(request), False, None).example
            prediction = model(torch.tensor([example.prompt])).logits[0, -1].argmax()
            learned.append(int(prediction) == example.target[0])
        return learned

    assert kept(True) == [True] * 4
    assert not all(kept(False))


# ------------------------------------------------------------------ refusals


def test_requests_that_contradict_each_other_are_refused_only_if_they_are_trained_together(llama: Any) -> None:
    before = state_of(llama)
    requests = [REQUESTS[0], {**REQUESTS[0], "case_id": "again", "target_new": "violin"}]
    hparams = LocFTBFHyperParams(**PLACE, batch_size=2)
    with pytest.raises(EditError, match="same batch has the same prompt and another target"):
        edit(llama, hparams, requests)
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    results = edit(llama, FTHyperParams(**PLACE, batch_size=2), requests).results
    assert [result.learned for result in results] == [False, True]


def test_a_loss_that_overflows_stops_the_edit_and_leaves_no_trace(llama: Any) -> None:
    before = state_of(llama)
    with pytest.raises(EditError, match=r"request 0 \(case france\): the loss became (nan|inf) after 2 steps"):
        edit(llama, FTHyperParams(**PLACE, lr=1e37, stop_when_correct=False), REQUESTS[:1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llama.parameters())


def test_a_block_that_the_model_lacks_is_refused(llama: Any) -> None:
    with pytest.raises(ModelError, match="layers: there is no block 7; the last one is 3"):
        edit(llama, FTHyperParams(**{**PLACE, "layers": [7]}), REQUESTS[:1])
