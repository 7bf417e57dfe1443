"""``apply_coachhook_to_model``: EasyEdit's argument contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_coachhook_to_model
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.locate_edit import editor as editing
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import FACTS, hparams_for, moments_for, same_tensors
from tests.support.tiny_models import WORDS, build_model, build_tokenizer, state_of

RECORDS = [{"prompt": prompt, "target_new": target, "subject": subject} for prompt, target, subject in FACTS]
HPARAMS = hparams_for("llama", v_num_grad_steps=4)


@pytest.fixture(autouse=True)
def _no_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "second_moments", lambda model, *_, **__: moments_for(model, HPARAMS))


@pytest.fixture
def model() -> Any:
    return build_model("llama")


def test_the_models_own_edits(model: Any) -> None:
    edited, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS, HPARAMS)
    assert edited is model
    assert [result.case_id for result in rollback.results] == [0, 1, 2, 3]
    assert [result.detail["batch"] for result in rollback.results] == [1, 1, 2, 2]
    assert [result.steps for result in rollback.results] == [3] * 4
    json.dumps([result.to_dict() for result in rollback.results], allow_nan=False)
    # Batches upon batches.
    _, second = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:1], HPARAMS)
    assert second.results[0].detail["batch"] == 3
    with pytest.raises(EditError, match="later CoachHook batches"):
        rollback()
    assert not rollback.done
    second()
    rollback()
    assert rollback.done
    rollback()
    assert CoachHookEditor.of(model) is None


def test_what_is_reported_without_hooks_is_json_too(model: Any) -> None:
    hparams = hparams_for("llama", v_num_grad_steps=4, wohk=True)
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS, hparams)
    json.dumps([result.to_dict() for result in rollback.results], allow_nan=False)


def test_a_copy_is_edited_instead(model: Any) -> None:
    before = state_of(model)
    edited, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], HPARAMS, copy=True)
    assert edited is not model
    assert same_tensors(state_of(model), before)
    assert CoachHookEditor.of(model) is None
    assert len(coachhook_editor(edited).state.batches) == 1
    again, _ = apply_coachhook_to_model(edited, build_tokenizer(), RECORDS[2:], HPARAMS, copy=True)
    assert len(coachhook_editor(again).state.batches) == 2
    assert len(coachhook_editor(edited).state.batches) == 1
    rollback()
    assert same_tensors(state_of(edited), before)


@pytest.mark.parametrize("wohk", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_walking_the_rollback_undoes_only_if_so_agreed(model: Any, keep: bool, wohk: bool) -> None:
    # EasyEdit's release walks `.items()` to copy weights back; with keep_original_weight=False edits are to stay.
    before = state_of(model)
    hparams = hparams_for("llama", v_num_grad_steps=4, wohk=wohk)
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams, keep_original_weight=keep)
    edited = state_of(model)
    assert not same_tensors(edited, before)
    assert list(rollback.items()) == []
    assert same_tensors(state_of(model), before if keep else edited)
    rollback()
    assert same_tensors(state_of(model), before)


def test_what_other_methods_take_is_ignored(model: Any) -> None:
    apply_coachhook_to_model(
        model, build_tokenizer(), RECORDS[:1], HPARAMS, False, True, True, train_ds=None, cache_template=None
    )


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no requests"),
        ([{"prompt": "x", "target_new": "y"}], "request 0.*field 'subject'"),
        ([RECORDS[0], {**RECORDS[1], "subject": "Peru"}], "request 1.*field 'subject'"),
        ([RECORDS[0], {"prompt": "x"}], "request 1.*field 'target_new'"),
        ([3], "request 0"),
    ],
)
def test_bad_requests_are_named_and_nothing_is_done(model: Any, records: list[Any], message: str) -> None:
    before = state_of(model)
    with pytest.raises(DataError, match=message):
        apply_coachhook_to_model(model, build_tokenizer(), records, HPARAMS)
    assert CoachHookEditor.of(model) is None
    assert same_tensors(state_of(model), before)


def test_it_is_registered_like_any_method(model: Any) -> None:
    method = get_plugins().method_for(HPARAMS)
    assert method is not None
    assert method.name == "CoachHook"
    assert method.batchable
    assert method.apply is apply_coachhook_to_model
    assert method.check is not None
    method.check(model, build_tokenizer(), HPARAMS)


def test_editing_inside_no_grad(model: Any) -> None:
    with torch.no_grad():
        _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], HPARAMS)
    assert [result.steps for result in rollback.results] == [3, 3]


def test_a_model_in_training_mode_is_edited_as_in_evaluation_mode() -> None:
    one, two = build_model("gpt2"), build_model("gpt2")
    for module in two.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    two.train()
    hparams = hparams_for("gpt2", v_num_grad_steps=4)
    for model in (one, two):
        CoachHookEditor.on(model, build_tokenizer(), hparams, moments_for(model, hparams))
        apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams)
    assert same_tensors(state_of(one), state_of(two))
    assert two.training


@pytest.mark.parametrize("spelling", ["model.layers[{}].mlp.down_proj", "model.layers.{}.mlp.down_proj.weight"])
def test_easyedits_other_spellings_of_a_layer(
    model: Any, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # collect in earnest
    file = tmp_path / "corpus.txt"
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(WORDS), (60, 20), generator=generator).tolist()
    file.write_text("\n".join(" ".join(WORDS[i] for i in row) for row in rows))
    hparams = hparams_for(
        "llama",
        v_num_grad_steps=4,
        rewrite_module_tmp=spelling,
        mom2_dataset=str(file),
        mom2_n_samples=None,
        mom2_n_tokens=1000,
        stats_dir=str(tmp_path),
    )
    _, rollback = apply_coachhook_to_model(model, build_tokenizer(), RECORDS[:2], hparams)
    assert len(rollback.results) == 2
