"""Editing with a trained MEND: what the training improves, batches, the artefact, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong import (
    EditError,
    HyperParameterError,
    MendHyperParams,
    ModelError,
    RunError,
    apply_mend_to_model,
    load_edits,
    save_edits,
)
from easyedit_lifelong.methods.mend.editor import MendEditor
from tests.support.tiny_models import build_model, build_tokenizer, state_of
from tests.support.trained_methods import PATHS, UNSEEN, edited_weights, loss_of_unseen_edits, train


def hparams_for(**options: Any) -> MendHyperParams:
    settings = {"rank": 8, "lr": 3e-4, "lr_lr": 1e-3, "edit_lr": 1e-3, "accumulate_bs": 4, "val_interval": 1000}
    return MendHyperParams(**{"model_name": "tiny", "inner_params": PATHS, **settings, **options})


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> MendHyperParams:
    """Hyperparameters of a network that has statistics of the gradients, and its first parameters."""
    archive = str(tmp_path_factory.mktemp("untrained"))
    return train(hparams_for(archive=archive, lr=1e-30, lr_lr=1e-30), edits=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MendHyperParams:
    """Hyperparameters of a trained network."""
    return train(hparams_for(archive=str(tmp_path_factory.mktemp("trained"))), edits=80)


def apply(model: Any, requests: list[dict[str, Any]], hparams: MendHyperParams) -> Any:
    _, rollback = apply_mend_to_model(model, build_tokenizer(), requests, hparams)
    return rollback


# ------------------------------------------------------------------ the edit


def test_training_makes_unseen_edits_better(untrained: MendHyperParams, trained: MendHyperParams) -> None:
    trained_loss, untrained_loss = (loss_of_unseen_edits(apply_mend_to_model, each) for each in (trained, untrained))
    assert trained_loss < 0.95 * untrained_loss


def test_an_edit_raises_the_probability_of_its_target(trained: MendHyperParams) -> None:
    results = apply(build_model("llama"), UNSEEN[:4], trained).results
    assert all(result.loss < result.detail["loss_before"] for result in results)


def test_the_update_of_a_batch_is_the_sum_of_the_updates_of_its_requests(trained: MendHyperParams) -> None:
    base = edited_weights(build_model("llama"))
    changes = [torch.zeros_like(weight) for weight in base]
    for record in UNSEEN[:3]:
        model = build_model("llama")
        apply(model, [record], trained)
        changes = [change + after - b for change, after, b in zip(changes, edited_weights(model), base, strict=True)]
    model = build_model("llama")
    apply(model, UNSEEN[:3], dataclasses.replace(trained, batch_size=3))
    for after, before, change in zip(edited_weights(model), base, changes, strict=True):
        torch.testing.assert_close(after - before, change, rtol=1e-3, atol=1e-5)


def test_the_updates_are_stored_as_factors_with_a_column_for_each_token(trained: MendHyperParams) -> None:
    model = build_model("llama")
    apply(model, UNSEEN[:1], trained)
    (batch,) = MendEditor.require(model).state.batches
    first, last = (batch.layers[path] for path in PATHS)
    # Block 2 has a gradient at all three tokens of the prompt; the last block only where the target is predicted.
    assert (first.adjusted.shape, first.residual.shape) == ((48, 3), (32, 3))
    assert (last.adjusted.shape, last.residual.shape) == ((48, 1), (32, 1))


def test_saved_edits_load_without_the_artefact(trained: MendHyperParams, tmp_path: Path) -> None:
    model = build_model("llama")
    hparams = dataclasses.replace(trained, archive=str(shutil.copytree(str(trained.archive), tmp_path / "copy")))
    apply(model, UNSEEN[:2], hparams)
    save_edits(model, tmp_path / "edits")
    shutil.rmtree(tmp_path / "copy")
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "edits", build_tokenizer())
    assert all(torch.equal(a, b) for a, b in zip(edited_weights(loaded), edited_weights(model), strict=True))
    with pytest.raises(HyperParameterError, match="is not a folder with a trained MEND"):
        apply(loaded, UNSEEN[2:3], hparams)
    assert all(torch.equal(a, b) for a, b in zip(edited_weights(loaded), edited_weights(model), strict=True))


# ------------------------------------------------------------------ what is refused


def assert_refused(hparams: MendHyperParams, error: type[Exception], message: str, model: Any = None) -> None:
    """Assert that an edit is refused and leaves no trace."""
    model = build_model("llama") if model is None else model
    before = state_of(model)
    with pytest.raises(error, match=message):
        apply(model, UNSEEN[:1], hparams)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert MendEditor.of(model) is None


def test_a_missing_artefact_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    assert_refused(hparams_for(), HyperParameterError, "archive: names no folder. Train one: easyedit-lifelong train")
    missing = str(tmp_path / "none")
    expected = f"archive: {missing} is not a folder .*train --method MEND --hparams FILE --data FILE --out {missing}"
    assert_refused(hparams_for(archive=missing), HyperParameterError, expected)


def test_other_settings_than_those_of_the_training_are_refused(trained: MendHyperParams) -> None:
    for change in ({"rank": 4}, {"n_hidden": 0}, {"inner_params": PATHS[:1]}):
        (name,) = change
        assert_refused(dataclasses.replace(trained, **change), HyperParameterError, f"was trained with {name}=")
    with_endings = dataclasses.replace(trained, inner_params=[f"{path}.weight" for path in PATHS])
    apply(build_model("llama"), UNSEEN[:1], with_endings)


def test_an_artefact_for_another_model_is_refused(trained: MendHyperParams) -> None:
    model = build_model("llama")
    with torch.no_grad():
        model.get_submodule(PATHS[0]).weight[0, 0] += 1
    assert_refused(trained, ModelError, "was trained for other weights than those of this model", model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "has the format version 99, and this package reads 1"),
        ({"tensors": {"file": "artefact-0.safetensors", "sha256": "0"}}, "is incomplete or damaged"),
        ({"model": None}, "is incomplete or damaged"),
        ({"hparams": 3}, "is incomplete or damaged"),
    ],
)
def test_a_damaged_artefact_is_refused(
    trained: MendHyperParams, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = shutil.copytree(str(trained.archive), tmp_path / "copy")
    description = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps({**description, **change}))
    assert_refused(dataclasses.replace(trained, archive=str(folder)), RunError, message)


def test_changed_tensors_are_refused(trained: MendHyperParams, tmp_path: Path) -> None:
    folder = shutil.copytree(str(trained.archive), tmp_path / "copy")
    (tensors,) = folder.glob("artefact-*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    assert_refused(dataclasses.replace(trained, archive=str(folder)), RunError, "has been changed since it was written")


def test_the_edits_of_a_model_have_one_network(untrained: MendHyperParams, trained: MendHyperParams) -> None:
    model = build_model("llama")
    apply(model, UNSEEN[:1], trained)
    before = edited_weights(model)
    with pytest.raises(EditError, match="made with another trained MEND"):
        apply(model, UNSEEN[1:2], dataclasses.replace(trained, archive=untrained.archive))
    assert all(torch.equal(a, b) for a, b in zip(edited_weights(model), before, strict=True))
    apply(model, UNSEEN[1:2], trained)
    assert len(MendEditor.require(model).state.batches) == 2


def test_a_file_of_easyedit_loads_unchanged(tmp_path: Path) -> None:
    easyedit = {
        **{"archive": "./results/models/MEND/gpt2-xl", "alg_name": "MEND", "device": 4, "model_name": "gpt2-xl"},
        **{"model_class": "GPT2LMHeadModel", "tokenizer_class": "GPT2Tokenizer", "tokenizer_name": "gpt2-xl"},
        **{"model_parallel": False, "inner_params": ["transformer.h.47.mlp.c_fc.weight"], "lr": "1e-6"},
        **{"edit_lr": "1e-4", "lr_lr": "1e-4", "lr_scale": 1.0, "seed": 42, "cedit": 0.1, "cloc": 1.0, "cbase": 1.0},
        **{"dropout": 0.0, "train_base": False, "no_grad_layers": None, "one_sided": False, "n_hidden": 1},
        **{"hidden_dim": None, "init": "id", "norm": True, "combine": True, "x_only": False, "delta_only": False},
        **{"act": "relu", "rank": 1920, "mlp_class": "IDMLP", "shared": True, "batch_size": 1, "model_save_pt": 5000},
        **{"silent": False, "max_iters": 100000, "log_interval": 1000, "eval_log_interval": 1000, "final_eval": True},
        **{"val_interval": 1000, "early_stop_patience": 20000, "early_stop_key": "loss/total_edit_val"},
        **{"eval_only": True, "half": False, "debug": False, "save": False, "verbose": True, "val_batch_size": 5},
        **{"accumulate_bs": 10, "val_steps": 500, "opt": "Adam", "grad_clip": 100.0, "results_dir": "./results"},
    }
    (tmp_path / "gpt2-xl.yaml").write_text(yaml.safe_dump(easyedit))
    hparams = MendHyperParams.from_hparams(tmp_path / "gpt2-xl.yaml")
    assert (hparams.rank, hparams.edit_lr, hparams.archive) == (1920, 1e-4, "./results/models/MEND/gpt2-xl")
    for name, value in {"combine": False, "mlp_class": "MLP", "train_base": True, "rank": 0}.items():
        with pytest.raises(HyperParameterError, match=f"{name}: "):
            dataclasses.replace(hparams, **{name: value})
