"""KE: what its training improves, the multiplier of the constraint, and the artefact."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong import (
    HyperParameterError,
    KEHyperParams,
    apply_ke_to_model,
    load_edits,
    read_artefact,
    save_edits,
    train_editor,
)
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.methods.hypernetworks.training import load_artefact
from easyedit_lifelong.methods.ke.network import KENetwork
from easyedit_lifelong.methods.ke.training import KETraining
from easyedit_lifelong.models.model_modes import editing, frozen
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.trained_methods import PATHS, UNSEEN, edited_weights, loss_of_unseen_edits, train
from tests.support.training_records import training_records

GPT2_PATHS = ["transformer.h.2.mlp.c_fc", "transformer.h.3.mlp.c_proj"]


def hparams_for(**options: Any) -> KEHyperParams:
    settings = {"hidden_dim": 16, "condition_dim": 32, "lr": 1e-2, "accumulate_bs": 4, "val_interval": 1000}
    return KEHyperParams(**{"model_name": "tiny", "inner_params": PATHS, **settings, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Hyperparameters of a trained network."""
    return train(hparams_for(archive=str(tmp_path_factory.mktemp("trained"))), edits=120)


def training_for(family: str = "llama", **options: Any) -> tuple[Any, KETraining]:
    model = build_model(family, torch.float64)
    return model, KETraining(model, build_tokenizer(), hparams_for(**options), KENetwork)


# ------------------------------------------------------------------ the edit


def test_training_makes_unseen_edits_better(trained: KEHyperParams, tmp_path: Path) -> None:
    untrained = train(hparams_for(archive=str(tmp_path), lr=1e-30), edits=4)
    trained_loss, untrained_loss = (loss_of_unseen_edits(apply_ke_to_model, each) for each in (trained, untrained))
    assert trained_loss < 0.95 * untrained_loss


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edit_has_the_weights_that_the_training_computes(family: str, tmp_path: Path) -> None:
    paths = PATHS if family == "llama" else GPT2_PATHS
    hparams = hparams_for(inner_params=paths, archive=str(tmp_path), max_scale=10.0)
    model = build_model(family, torch.float64)
    train_editor(model, build_tokenizer(), training_records(6), hparams, tmp_path, edits=2)
    training = KETraining(model, build_tokenizer(), hparams, KENetwork)
    load_artefact(training.network, read_artefact(tmp_path, "KE", "archive").tensors)
    record = training.encode(as_requests(UNSEEN[:1])[0])
    with editing(model), frozen(model), torch.no_grad():
        expected = training.edited_weights([record.edit], observe=False)
    before = {path: model.get_submodule(path).weight.detach().clone() for path in paths}
    apply_ke_to_model(model, build_tokenizer(), UNSEEN[:1], hparams)
    for path in paths:
        weight = model.get_submodule(path).weight.detach()
        assert float((weight - before[path]).abs().max()) > 1e-4
        torch.testing.assert_close(weight, expected[path], rtol=0, atol=1e-10)


def test_the_artefact_holds_no_embedding_and_saved_edits_load_without_it(
    trained: KEHyperParams, tmp_path: Path
) -> None:
    tensors = read_artefact(trained.archive, "KE", "archive").tensors
    assert {name.split(".")[1] for name in tensors} == {"lstm", "condition", "gates"}
    model, loaded = build_model("llama"), build_model("llama")
    apply_ke_to_model(model, build_tokenizer(), UNSEEN[:2], dataclasses.replace(trained, batch_size=2))
    save_edits(model, tmp_path / "edits")
    load_edits(loaded, tmp_path / "edits", build_tokenizer())
    assert all(torch.equal(a, b) for a, b in zip(edited_weights(loaded), edited_weights(model), strict=True))


def test_other_settings_than_those_of_the_training_are_refused(trained: KEHyperParams) -> None:
    for change in ({"hidden_dim": 4}, {"condition_dim": 4}, {"max_scale": 2.0}):
        (name,) = change
        hparams = dataclasses.replace(trained, **change)  # type: ignore[arg-type]
        with pytest.raises(HyperParameterError, match=f"was trained with {name}="):
            apply_ke_to_model(build_model("llama"), build_tokenizer(), UNSEEN[:1], hparams)


def test_the_first_parameters_depend_on_the_seed_only() -> None:
    state = torch.random.get_rng_state()
    (_, first), (_, again), (_, other) = training_for(), training_for(), training_for(seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, parameter in first.network.named_parameters():
        assert torch.equal(parameter, again.network.get_parameter(name))
    assert not torch.equal(first.network.condition.weight, other.network.condition.weight)  # type: ignore[union-attr]


# ------------------------------------------------------------------ the constraint


def test_the_loss_is_the_lagrangian_of_the_constraint() -> None:
    model, training = training_for(kl_margin=0.2)
    with torch.no_grad():
        training.multiplier.fill_(3.0)
    record = training.encode(as_requests(UNSEEN[:1])[0]).choose(random.Random(0))
    with editing(model), frozen(model):
        loss = training.loss([record], observe=True)
        loss.total.backward()
    torch.testing.assert_close(loss.total, loss.edit + 3.0 * (loss.locality - 0.2))
    torch.testing.assert_close(training.multiplier.grad, (loss.locality - 0.2).float())


@pytest.mark.parametrize(("margin", "expected"), [(0.0, 1.1), (1e6, 0.9)])
def test_the_multiplier_rises_while_the_constraint_is_violated(margin: float, expected: float) -> None:
    model, training = training_for(kl_margin=margin, max_scale=10.0)
    record = training.encode(as_requests(UNSEEN[:1])[0])
    with editing(model), frozen(model):
        values = training.train_step([[record]], random.Random(0))
        assert values["multiplier"] == pytest.approx(expected, abs=1e-3)
        for _ in range(15):
            values = training.train_step([[record]], random.Random(0))
    assert values["multiplier"] == 0 if margin else values["multiplier"] > 2


def test_the_validation_loss_does_not_depend_on_the_multiplier() -> None:
    model, training = training_for(cedit=0.3, cloc=2.0)
    record = training.encode(as_requests(UNSEEN[:1])[0])
    losses = []
    with editing(model), frozen(model):
        for multiplier in (0.0, 5.0):
            with torch.no_grad():
                training.multiplier.fill_(multiplier)
            values = training.validate([[record]], random.Random(0))
            losses.append(values["loss"])
            assert values["loss"] == pytest.approx(0.3 * values["edit_loss"] + 2.0 * values["locality_loss"])
    assert losses[0] == losses[1]


def test_a_resumed_training_ends_with_bitwise_the_same_network(tmp_path: Path) -> None:
    """The multiplier and its optimiser's state are a part of the checkpoint."""
    hparams = hparams_for(val_interval=4, kl_margin=0.0, max_scale=10.0)
    for out, stops in {"once": (8,), "twice": (4, 8)}.items():
        for number, edits in enumerate(stops):
            train_editor(
                build_model("llama"),
                build_tokenizer(),
                training_records(8),
                hparams,
                tmp_path / out,
                edits=edits,
                resume=number > 0,
            )
    artefacts = [read_artefact(tmp_path / out, "KE", "archive").tensors for out in ("once", "twice")]
    checkpoints = [load_file(tmp_path / out / "checkpoint.safetensors") for out in ("once", "twice")]
    assert float(checkpoints[0]["multiplier"]) > 1
    for first, second in (artefacts, checkpoints):
        assert set(first) == set(second)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
