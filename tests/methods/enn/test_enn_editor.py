"""ENN: what its training improves, where the trained weights are, rollback, and what is saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    EditError,
    ENNHyperParams,
    HyperParameterError,
    apply_enn_to_model,
    load_edits,
    read_artefact,
    save_edits,
    train_editor,
)
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.enn.editor import ENNEditor
from easyedit_lifelong.methods.enn.network import EditableWeights
from easyedit_lifelong.methods.enn.training import ENNTraining
from easyedit_lifelong.methods.hypernetworks.training import load_artefact
from easyedit_lifelong.models.model_modes import editing, frozen
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.trained_methods import PATHS, UNSEEN, edited_weights, loss_of_unseen_edits, train
from tests.support.training_records import training_records

GPT2_PATHS = ["transformer.h.2.mlp.c_fc", "transformer.h.3.mlp.c_proj"]


def hparams_for(**options: Any) -> ENNHyperParams:
    settings = {"edit_lr": 0.1, "lr": 1e-3, "lr_lr": 0.1, "accumulate_bs": 4, "val_interval": 1000}
    return ENNHyperParams(**{"model_name": "tiny", "inner_params": PATHS, **settings, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Hyperparameters of a trained ENN."""
    return train(hparams_for(archive=str(tmp_path_factory.mktemp("trained"))), edits=120)


def apply(model: Any, requests: list[dict[str, Any]], hparams: ENNHyperParams) -> Any:
    _, rollback = apply_enn_to_model(model, build_tokenizer(), requests, hparams)
    return rollback


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ------------------------------------------------------------------ the edit


def test_training_makes_unseen_edits_better(trained: ENNHyperParams, tmp_path: Path) -> None:
    untrained = train(hparams_for(archive=str(tmp_path), lr=1e-30, lr_lr=1e-30), edits=4)
    trained_loss, untrained_loss = (loss_of_unseen_edits(apply_enn_to_model, each) for each in (trained, untrained))
    assert trained_loss < 0.95 * untrained_loss


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edit_has_the_weights_that_the_training_computes(family: str, tmp_path: Path) -> None:
    """The training differentiates the loss by the weights, the editor multiplies inputs and output gradients."""
    paths = PATHS if family == "llama" else GPT2_PATHS
    hparams = hparams_for(inner_params=paths, archive=str(tmp_path), lr=1e-2, lr_lr=1e-3, n_edit_steps=3)
    model, tokenizer = build_model(family, torch.float64), build_tokenizer()
    train_editor(model, tokenizer, training_records(6), hparams, tmp_path, edits=4)
    training = ENNTraining(model, tokenizer, hparams, EditableWeights)
    load_artefact(training.network, read_artefact(tmp_path, "ENN", "archive").tensors)
    record = training.encode(as_requests(UNSEEN[:1])[0])
    with editing(model), frozen(model), torch.no_grad():
        base, expected = training.base_weights(), training.edited_weights([record.edit], observe=False)
    apply(model, UNSEEN[:1], hparams)
    for path in paths:
        weight = model.get_submodule(path).weight.detach()
        assert float((weight - base[path]).abs().max()) > 1e-4
        torch.testing.assert_close(weight, expected[path], rtol=1e-6, atol=1e-8)


# ------------------------------------------------------------------ the trained weights


def test_the_training_leaves_the_model_as_it_is_and_the_artefact_holds_the_changes(trained: ENNHyperParams) -> None:
    tensors = read_artefact(trained.archive, "ENN", "archive").tensors
    base = build_model("llama")
    shapes = [tuple(weight.shape) for weight in edited_weights(base)]
    assert [tuple(tensors[f"network.changes.{number}"].shape) for number in range(2)] == shapes
    assert all(float(tensors[f"network.changes.{number}"].abs().max()) > 1e-3 for number in range(2))
    model = build_model("llama")
    train_editor(model, build_tokenizer(), training_records(4), hparams_for(), Path(f"{trained.archive}-2"), edits=4)
    assert_same(edited_weights(model), edited_weights(base))


def test_the_first_batch_brings_the_trained_weights_and_its_rollback_restores_the_original_ones(
    trained: ENNHyperParams,
) -> None:
    model = build_model("llama")
    original = edited_weights(model)
    tensors = read_artefact(trained.archive, "ENN", "archive").tensors
    step_free = dataclasses.replace(trained, batch_size=1)
    first = apply(model, UNSEEN[:1], step_free)
    after_first = edited_weights(model)
    second = apply(model, UNSEEN[1:2], step_free)
    batches = ENNEditor.require(model).state.batches
    for number, path in enumerate(PATHS):
        assert torch.equal(batches[0].layers[path].base, tensors[f"network.changes.{number}"])  # type: ignore[attr-defined]
        assert batches[1].layers[path].base.shape[1] == 0  # type: ignore[attr-defined]
    with pytest.raises(EditError, match="later ENN batches are still in place"):
        first()
    second()
    assert_same(edited_weights(model), after_first)
    first()
    assert_same(edited_weights(model), original)
    again = apply(model, UNSEEN[:1], step_free)
    assert_same(edited_weights(model), after_first)
    again()
    assert_same(edited_weights(model), original)


def test_a_later_batch_is_a_step_from_the_edited_weights(trained: ENNHyperParams) -> None:
    model = build_model("llama")
    apply(model, UNSEEN[:1], trained)
    before = edited_weights(model)
    result = apply(model, UNSEEN[1:2], trained).results[0]
    assert result.loss < result.detail["loss_before"]
    (_, batch) = ENNEditor.require(model).state.batches
    for path, old, new in zip(PATHS, before, edited_weights(model), strict=True):
        update = batch.layers[path]
        product = update.residual @ update.adjusted.t()  # type: ignore[attr-defined]
        torch.testing.assert_close(new - old, product, rtol=1e-3, atol=1e-6)


def test_saved_edits_hold_the_trained_weights_and_load_without_the_artefact(
    trained: ENNHyperParams, tmp_path: Path
) -> None:
    model, loaded = build_model("llama"), build_model("llama")
    original = edited_weights(model)
    apply(model, UNSEEN[:3], trained)
    save_edits(model, tmp_path / "edits")
    rollback = load_edits(loaded, tmp_path / "edits", build_tokenizer())
    assert_same(edited_weights(loaded), edited_weights(model))
    rollback()
    assert_same(edited_weights(loaded), original)


def test_other_settings_than_those_of_the_training_are_refused(trained: ENNHyperParams) -> None:
    for change in ({"n_edit_steps": 2}, {"inner_params": PATHS[:1]}):
        (name,) = change
        hparams = dataclasses.replace(trained, **change)  # type: ignore[arg-type]
        with pytest.raises(HyperParameterError, match=f"was trained with {name}="):
            apply(build_model("llama"), UNSEEN[:1], hparams)
