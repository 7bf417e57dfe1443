"""Quantised models: each method works, or is refused with the reason; a model that is quantised after it was edited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    CoachHookHyperParams,
    DeferHyperParams,
    EditRequest,
    FTHyperParams,
    GraceHyperParams,
    IKEHyperParams,
    NativeMemitHyperParams,
    NativeRomeHyperParams,
    NeuralDBHyperParams,
    UltraEditHyperParams,
    apply_adaptor_to_model,
    apply_finetune_to_model,
    apply_grace_to_model,
    apply_neuraldb_to_model,
    apply_retrieval_to_model,
    apply_rome_to_model,
    apply_ultraedit_to_model,
    export_model,
    load_edits,
    save_edits,
)
from easyedit_lifelong.errors import EditError, LifelongError, ModelError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.fingerprint import model_fingerprint
from tests.support.coachhook_edits import FACTS, PLAIN, attributes_and_hooks_of, moments_for
from tests.support.quantised_models import LAYERS, quantise, quantised_llama
from tests.support.tiny_models import build_model, build_tokenizer

TOKENIZER = build_tokenizer()
REQUESTS = [EditRequest(n, prompt, target, subject) for n, (prompt, target, subject) in enumerate(FACTS[:2])]
PROJECTION = "model.layers.{}.mlp.down_proj"
LAYER = PROJECTION.format(2)
BLOCKS = {"rewrite_module_tmp": PROJECTION, "layer_module_tmp": "model.layers.{}", "v_num_grad_steps": 4}
CONTEXTS = {"context_template_length_params": [[5, 3]]}
NAMED = {"model_name": "tiny"}


def edit_with_grace(model: Any, **options: Any) -> Any:
    hparams = GraceHyperParams(**NAMED, inner_params=[LAYER], n_iter=5, eps=0.01, **options)
    return apply_grace_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_coachhook(model: Any, **options: Any) -> Any:
    hparams = CoachHookHyperParams(**NAMED, layers=[1, 2], mom2_update_weight=1.0, batch_size=2, **BLOCKS, **options)
    return CoachHookEditor.on(model, TOKENIZER, hparams, moments_for(model, hparams), PLAIN).edit(REQUESTS)[1]


def edit_with_memit(model: Any) -> Any:
    hparams = NativeMemitHyperParams(**NAMED, layers=[1, 2], mom2_update_weight=1.0, batch_size=2, **BLOCKS)
    return MemitEditor.on(model, TOKENIZER, hparams, moments_for(model, hparams), PLAIN).edit(REQUESTS)[1]


def edit_with_rome(model: Any) -> Any:
    hparams = NativeRomeHyperParams(**NAMED, layers=[2], mom2_adjustment=False, **BLOCKS, **CONTEXTS)
    return apply_rome_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_ultraedit(model: Any) -> Any:
    hparams = UltraEditHyperParams(**NAMED, inner_params=[LAYER], lr=0.1)
    return apply_ultraedit_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_finetuning(model: Any) -> Any:
    hparams = FTHyperParams(**NAMED, layers=[2], rewrite_module_tmp=PROJECTION, num_steps=2)
    return apply_finetune_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_neuraldb(model: Any) -> Any:
    hparams = NeuralDBHyperParams(**NAMED, layers=[2], **BLOCKS, **CONTEXTS)
    return apply_neuraldb_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_defer(model: Any) -> Any:
    hparams = DeferHyperParams(**NAMED, inner_params=[LAYER], n_iter=5)
    return apply_adaptor_to_model(model, TOKENIZER, REQUESTS, hparams)[1]


def edit_with_ike(model: Any) -> Any:
    return apply_retrieval_to_model(model, TOKENIZER, REQUESTS, IKEHyperParams(**NAMED, embedding_layer=1))[1]


def edit_with_wohk(model: Any) -> Any:
    return edit_with_coachhook(model, wohk=True)


def edit_with_grace_by_subject(model: Any) -> Any:
    return edit_with_grace(model, query_token="subject_last")


BESIDE_WEIGHTS: list[Callable[[Any], Any]] = [
    edit_with_grace,
    edit_with_grace_by_subject,
    edit_with_coachhook,
    edit_with_neuraldb,
    edit_with_defer,
    edit_with_ike,
]
IN_WEIGHTS: list[Callable[[Any], Any]] = [
    edit_with_wohk,
    edit_with_memit,
    edit_with_rome,
    edit_with_ultraedit,
    edit_with_finetuning,
]


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model(input_ids=torch.tensor([TOKENIZER(REQUESTS[0].prompt)["input_ids"]])).logits


@pytest.mark.parametrize("edit", BESIDE_WEIGHTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_methods_that_keep_edits_beside_the_weights_work(kind: str, edit: Callable[[Any], Any]) -> None:
    model = quantised_llama(kind)
    base, stored = logits_of(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rollback = edit(model)
    assert not torch.equal(logits_of(model), base)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())
    rollback()
    assert torch.equal(logits_of(model), base)


@pytest.mark.parametrize("edit", IN_WEIGHTS)
@pytest.mark.parametrize("kind", [*LAYERS, "dynamic"])
def test_methods_that_write_weights_are_refused_with_the_way_out(kind: str, edit: Callable[[Any], Any]) -> None:
    model = quantised_llama(kind)
    before = attributes_and_hooks_of(model)
    with pytest.raises(ModelError, match=r"down_proj has a (packed )?weight.*CoachHook with hook"):
        edit(model)
    assert attributes_and_hooks_of(model) == before


@pytest.mark.parametrize("edit", BESIDE_WEIGHTS)
def test_a_model_without_gradients_is_refused_by_what_is_trained(edit: Callable[[Any], Any]) -> None:
    model = quantised_llama("dynamic")
    base, before = logits_of(model), attributes_and_hooks_of(model)
    # Its layers derive the scale of their codes from the whole batch, so padding changes its answers, too.
    with pytest.raises(LifelongError, match=r"quantised layer of torch, which has no gradients|padding|cache"):
        edit(model)
    assert attributes_and_hooks_of(model) == before
    assert torch.equal(logits_of(model), base)


@pytest.mark.parametrize("kind", [*LAYERS, "dynamic"])
def test_the_shape_of_a_quantised_projection_is_that_of_its_matrix(kind: str) -> None:
    assert projection_shape(quantised_llama(kind).get_submodule(LAYER)) == (48, 32)


def test_the_fingerprint_covers_packed_weights() -> None:
    model = quantised_llama("packed")
    before = model_fingerprint(model)
    model.get_submodule(LAYER).qweight[3, 5] += 1
    assert model_fingerprint(model) != before


def test_edits_beside_quantised_weights_are_not_exported_as_weights(tmp_path: Path) -> None:
    model = quantised_llama("int8")
    edit_with_coachhook(model)
    with pytest.raises(EditError, match="has a weight of int8 codes, so there is no weight W"):
        export_model(model, TOKENIZER, tmp_path / "out")


def test_saved_edits_beside_weights_load_onto_a_model_that_has_no_gradients(tmp_path: Path) -> None:
    model = quantised_llama("dynamic")
    path = "model.layers.2.mlp"
    unquantised = build_model("llama")
    edit = GraceHyperParams(**NAMED, inner_params=[path], n_iter=5, eps=1e6, replacement="replace_all")
    apply_grace_to_model(unquantised, TOKENIZER, REQUESTS[:1], edit)
    save_edits(unquantised, tmp_path)
    base = logits_of(model)
    load_edits(model, tmp_path, check_weights=False)
    assert not torch.equal(logits_of(model), base)


@pytest.mark.parametrize("kind", LAYERS)
def test_edits_in_weights_that_were_quantised_later_are_not_rolled_back_without_a_word(kind: str) -> None:
    model = build_model("llama")
    rollback = edit_with_memit(model)
    quantise(model, kind)
    edited = logits_of(model)
    with pytest.raises(EditError, match="has been replaced since it was edited"):
        rollback()
    assert torch.equal(logits_of(model), edited)


def test_edits_in_weights_that_were_quantised_in_place_are_not_rolled_back_into_codes() -> None:
    model = build_model("llama")
    rollback = edit_with_memit(model)
    layer = model.get_submodule(LAYER)
    codes = (layer.weight.detach() * 20).round().to(torch.int8)
    layer.weight = torch.nn.Parameter(codes, requires_grad=False)
    with pytest.raises(EditError, match="now has a weight of int8 codes"):
        rollback()
    assert torch.equal(layer.weight, codes)


def test_edits_beside_layers_that_were_quantised_later_are_an_error_at_the_next_pass() -> None:
    model = build_model("llama")
    edit_with_grace(model)
    quantise(model, "int8")
    with pytest.raises(EditError, match="has been replaced since it was edited"):
        logits_of(model)
