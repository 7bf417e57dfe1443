"""The native MEMIT's edits on disk: saved, loaded, resumed, inspected, rolled back and exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    export_model,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_folder,
    rollback_to_batch,
    run_consecutive,
    save_edits,
)
from easyedit_lifelong.edits.folder_parts import read_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.memit.editor import MemitEditor
from easyedit_lifelong.plugins import get_plugins
from tests.support.coachhook_edits import equal_states, requests_for
from tests.support.memit_edits import edited, hparams_for, unedited
from tests.support.registry import replace_method
from tests.support.state_folders import load_state, save_state
from tests.support.tiny_models import build_model, build_tokenizer, state_of


@pytest.mark.parametrize(
    "templates",
    [None, "{}", [["no braces"]], ["{}"], [[1]]],
    ids=["missing", "a text", "without braces", "a list of texts", "a number"],
)
def test_damaged_templates_are_refused_and_leave_the_model_unedited(
    tmp_path: Path, given_moments: None, templates: Any
) -> None:
    save_edits(edited((0,)), tmp_path)
    (name, part) = read_edits(tmp_path).parts[0]
    part.state["templates"] = templates
    model = build_model("llama")
    with pytest.raises(RunError, match="templates is missing or damaged"):
        get_plugins().methods.get(name).edits.attach(model, None, part, "a file")  # type: ignore[union-attr]
    assert MemitEditor.of(model) is None


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loaded_edits_equal_the_saved_ones_and_so_do_later_edits(
    family: str, tmp_path: Path, given_moments: None
) -> None:
    model = edited(family=family)
    save_edits(model, tmp_path / "edits")
    loaded, tokenizer, hparams = unedited(family)
    before = state_of(loaded)
    rollback = load_edits(loaded, tmp_path / "edits", tokenizer)
    assert equal_states(state_of(loaded), state_of(model))
    for each in (model, loaded):
        MemitEditor.on(each, tokenizer, hparams).edit(requests_for(0))
    assert equal_states(state_of(loaded), state_of(model))
    rollback_to_batch(loaded, 2)
    rollback()
    assert equal_states(state_of(loaded), before)


def test_an_interrupted_run_resumes_and_ends_as_an_uninterrupted_one(tmp_path: Path, given_moments: None) -> None:
    tokenizer, hparams = build_tokenizer(), hparams_for("llama", v_num_grad_steps=4, batch_size=1)
    hparams.context_template_length_params = [[5, 2]]

    class InterruptAfterTwo:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            if done == 2:
                raise KeyboardInterrupt

    def run(**options: Any) -> Any:
        return run_consecutive(build_model("llama"), tokenizer, requests_for(), hparams, retention=[], **options)

    # `prepare` would compute second moments, although `given_moments` replaces them.
    with pytest.MonkeyPatch.context() as patch:
        replace_method(patch, "MEMIT-native", prepare=None)
        uninterrupted = run(out=tmp_path / "uninterrupted")
        with pytest.raises(KeyboardInterrupt):
            run(out=tmp_path / "run", progress=InterruptAfterTwo())
        resumed = run(out=tmp_path / "run", resume=True)
    assert resumed.metrics == uninterrupted.metrics
    assert equal_states(state_of(resumed.edited_model), state_of(uninterrupted.edited_model))
    assert [entry["status"] for entry in resumed.journal] == ["edited"] * 4
    loaded = build_model("llama")
    load_edits(loaded, tmp_path / "run" / "state")
    assert equal_states(state_of(loaded), state_of(uninterrupted.edited_model))


def test_a_folder_is_inspected_and_rolled_back_to_a_batch_but_not_merged(tmp_path: Path) -> None:
    save_edits(edited(), tmp_path / "edits")
    (part,) = inspect_edits(tmp_path / "edits").parts
    assert (part.method, part.layers) == ("MEMIT-native", [f"model.layers.{n}.mlp.down_proj" for n in range(3)])
    assert part.batches == [{"edits": 2}, {"edits": 2}]
    assert [edit["batch"] for edit in part.edits] == [1, 1, 2, 2]
    assert part.settings == {
        "mom2_update_weight": 1.0,
        "accumulate_keys": False,
        "blue": False,
        "norm_anchor": None,
    }
    rollback_folder(tmp_path / "edits", batch=1, out=tmp_path / "first")
    model = build_model("llama")
    load_edits(model, tmp_path / "first")
    assert equal_states(state_of(model), state_of(edited((0, 1))))
    with pytest.raises(EditError, match="already; roll those back first"):
        load_edits(model, tmp_path / "edits", check_weights=False)
    with pytest.raises(RunError, match="can't be merged: every batch"):
        merge_edits([tmp_path / "edits", tmp_path / "first"], tmp_path / "merged")


def test_an_exported_checkpoint_has_the_edited_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = edited()
    export = export_model(model, build_tokenizer(), tmp_path / "out")
    assert export.lost == ()
    assert export.edits == {"MEMIT-native": 4}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert equal_states(state_of(loaded), state_of(model))


def test_edits_of_another_shape_are_refused_and_leave_the_model_unedited(tmp_path: Path) -> None:
    store = get_plugins().methods.get("MEMIT-native").edits
    assert store is not None
    (part,) = store.parts(edited((0,)))
    model = build_model("llama")
    before = state_of(model)
    tensors = {name: tensor[:5] for name, tensor in part.tensors.items()}
    with pytest.raises(RunError, match=r"here: MEMIT-native's edits don't fit this model: .*but its weight has"):
        store.attach(model, None, type(part)(part.hparams, part.edits, part.state, tensors), "here")
    assert equal_states(state_of(model), before)
    assert MemitEditor.of(model) is None


def test_a_state_loads_with_another_learning_rate_but_not_with_another_weight(tmp_path: Path) -> None:
    save_state(edited(), tmp_path, "MEMIT-native")
    model, tokenizer, _ = unedited()
    with pytest.raises(RunError, match=r"made with mom2_update_weight=1.0; now it is 2.0"):
        load_state(model, tokenizer, hparams_for("llama", mom2_update_weight=2.0), tmp_path)
    load_state(model, tokenizer, hparams_for("llama", v_lr=0.1), tmp_path, [0, 1])
    assert equal_states(state_of(model), state_of(edited((0, 1))))
