"""Runs of EasyEdit's MEMIT: resuming, single-round editing, its saved state and its second moments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import run_consecutive
from easyedit_lifelong.bridge import requirements
from easyedit_lifelong.errors import ModelError, RunError
from tests.support.easyedit_memit import REQUESTS, memit_hparams
from tests.support.tiny_models import state_of
from tests.support.toy_method import make_pair


def test_a_resumed_consecutive_run_equals_an_uninterrupted_one(memit: Any, given_moments: None, tmp_path: Path) -> None:
    """Weights and context templates are read from disk, so the remaining edits are the same."""
    hparams = memit_hparams(memit, "gpt2", batch_size=1, v_num_grad_steps=5)

    class InterruptAfterTwoEdits:
        def edited(self, done: int, scores: Any) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(*make_pair("gpt2"), REQUESTS, hparams, retention=[], **options)

    uninterrupted = run()
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "run", progress=InterruptAfterTwoEdits())
    resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == uninterrupted.metrics
    state = uninterrupted.edited_model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in resumed.edited_model.state_dict().items())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["method"], summary["n_edits"]) == ("MEMIT", 3)
    assert summary["hparams"]["mom2_update_weight"] == 0.01


def test_a_single_round_run_restores_the_weights(memit: Any, given_moments: None) -> None:
    model, tok = make_pair("llama")
    state = state_of(model)
    hparams = memit_hparams(memit, "llama", batch_size=2, v_num_grad_steps=5)
    result = run_consecutive(model, tok, REQUESTS, hparams, consecutive=False, retention=[])
    assert [entry["status"] for entry in result.journal] == ["edited"] * 3
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_state_of_another_model_is_refused(memit: Any, given_moments: None, tmp_path: Path) -> None:
    model, tok = make_pair("gpt2")
    memit.apply(model, tok, REQUESTS[:1], memit_hparams(memit, "gpt2", v_num_grad_steps=2))
    memit.state.save(model, tmp_path)
    with pytest.raises(ModelError, match="holds other weights"):
        memit.state.load(*make_pair("llama"), memit_hparams(memit, "llama"), tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "templates.json"])
def test_a_damaged_state_is_refused_and_changes_nothing(
    memit: Any, given_moments: None, tmp_path: Path, name: str
) -> None:
    hparams = memit_hparams(memit, "gpt2", v_num_grad_steps=2)
    model, tok = make_pair("gpt2")
    memit.apply(model, tok, REQUESTS[:1], hparams)
    memit.state.save(model, tmp_path, ["fr"])
    (tmp_path / "after-000001" / name).write_bytes(b"[damaged")
    fresh, tok = make_pair("gpt2")
    before = state_of(fresh)
    with pytest.raises(RunError, match="after-000001: can't be read"):
        memit.state.load(fresh, tok, hparams, tmp_path, ["fr"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    assert not memit.state.carries(fresh)


def test_a_run_on_an_edited_model_is_refused(memit: Any, given_moments: None, tmp_path: Path) -> None:
    model, tok = make_pair("gpt2")
    hparams = memit_hparams(memit, "gpt2", batch_size=1, v_num_grad_steps=2)
    rollbacks = [memit.apply(model, tok, [request], hparams)[1] for request in REQUESTS[:2]]
    for rollback in reversed(rollbacks):
        with pytest.raises(RunError, match="the model carries edits already"):
            run_consecutive(model, tok, REQUESTS[2:], hparams, retention=[], out=tmp_path / "run")
        rollback()
    assert not (tmp_path / "run").exists()
    run_consecutive(model, tok, REQUESTS[2:], hparams, retention=[], consecutive=False)


def test_second_moments_are_collected_once_and_stored(
    memit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are collected by this package and stored in EasyEdit's file format."""
    calls: list[Any] = []
    original = requirements.obtain_moments
    monkeypatch.setattr(
        requirements, "obtain_moments", lambda *args, **kwargs: calls.append(kwargs) or original(*args, **kwargs)
    )
    model, tok = make_pair("gpt2")
    text = tmp_path / "corpus.txt"
    text.write_text("The capital of France is Paris and the capital of Italy is Rome.\n\n" * 40)
    hparams = memit_hparams(
        memit, "gpt2", stats_dir=str(tmp_path / "stats"), mom2_dataset=str(text), v_num_grad_steps=2, mom2_n_samples=1
    )
    memit.check(model, tok, hparams)
    for _ in range(2):
        memit.apply(model, tok, REQUESTS[:1], hparams)
    assert len(calls) == 1
    assert len(list((tmp_path / "stats").rglob("*.npz"))) == 2, "not one file for each layer"
