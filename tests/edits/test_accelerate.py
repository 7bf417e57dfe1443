"""Models with accelerate's hooks, added before or after the edits: either can be removed without the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from transformers import AutoModelForCausalLM

from easyedit_lifelong import load_edits
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.models.fingerprint import model_fingerprint
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states
from tests.support.edited_models import EDITS, answers, remove_all_edits
from tests.support.saved_edits import equal, grace, logits_of, wohk
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, state_of

CPU = torch.device("cpu")
Dispatch = Callable[[Any, Path], Any]


def align(model: Any, _: Path) -> None:
    """Add the hooks that ``device_map`` adds to a model on several devices."""
    add_hook_to_module(model, AlignDevicesHook(CPU, io_same_device=True), append=True)
    for block in (model.base_model, *model.base_model.children()):
        add_hook_to_module(block, AlignDevicesHook(CPU), append=True)


DISPATCH: dict[str, Dispatch] = {
    "aligned": align,
    "on the CPU": lambda model, _: cpu_offload(model, CPU),
    "on disk": lambda model, folder: disk_offload(model, str(folder), CPU),
}


@pytest.mark.parametrize(
    "family", default_cases(["llama", "gpt2"], "gpt2")
)  # the second has its head tied to its embeddings
@pytest.mark.parametrize("method", default_cases(EDITS, "both"))
@pytest.mark.parametrize("dispatch", DISPATCH)
@pytest.mark.parametrize("dispatched_first", [True, False])
def test_edits_work_on_a_dispatched_model_and_leave_no_trace_in_it(
    family: str, method: str, dispatch: str, dispatched_first: bool, tmp_path: Path
) -> None:
    model, plain = build_model(family), build_model(family)
    unedited, state, fingerprint = logits_of(plain), state_of(plain), model_fingerprint(plain)
    EDITS[method](plain, family)
    for step in ("dispatch", "edit") if dispatched_first else ("edit", "dispatch"):
        if step == "edit":
            EDITS[method](model, family)
        else:
            DISPATCH[dispatch](model, tmp_path / "weights")
    assert model_fingerprint(model) == fingerprint
    for logits, expected in zip(logits_of(model), logits_of(plain), strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert answers(model) == answers(plain)

    model.save_edits(tmp_path / "edits")
    remove_all_edits(model)
    assert "_hf_hook" in vars(model) or dispatch != "aligned"
    assert equal(logits_of(model), unedited)
    # Removing accelerate's hooks must restore the base model: they may keep nothing of the edits.
    rollback = load_edits(model, tmp_path / "edits")
    rollback()
    remove_hook_from_submodules(model)
    model.tie_weights()  # accelerate has untied the head from the embeddings
    assert equal(logits_of(model), unedited)
    assert equal_states(state_of(model), state)
    assert not any(type(part).__module__.startswith("easyedit_lifelong") for part in vars(model).values())
    load_edits(model, tmp_path / "edits")
    assert not equal(logits_of(model), unedited)


def test_edits_work_on_a_model_that_is_larger_than_its_device(checkpoint: Path, tmp_path: Path) -> None:
    """``device_map="auto"`` fills the device, and leaves the last blocks on disk."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, device_map="auto", max_memory={"cpu": 80_000}, offload_folder=str(tmp_path)
    ).eval()
    assert {"cpu", "disk"} == set(model.hf_device_map.values())
    plain, unedited = build_model("llama"), logits_of(model)
    assert model_fingerprint(model) == model_fingerprint(plain)
    for edited in (plain, model):
        EDITS["both"](edited, "llama")
    for logits, expected in zip(logits_of(model), logits_of(plain), strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert answers(model) == answers(plain)
    model.save_edits(tmp_path / "edits")
    remove_all_edits(model)
    assert equal(logits_of(model), unedited)


@pytest.mark.parametrize("method", EDITS)
def test_editing_and_removing_edits_keep_the_hooks_of_accelerate(method: str, tmp_path: Path) -> None:
    model = build_model("llama")
    align(model, tmp_path)
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    parts = attributes_and_hooks_of(model)
    EDITS[method](model, "llama")
    remove_all_edits(model)
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == forwards
    assert attributes_and_hooks_of(model) == parts


def test_a_forward_that_was_replaced_after_an_edit_is_an_error(tmp_path: Path) -> None:
    """Removing accelerate's hooks also removes a forward that was put around them; no edit would answer then."""
    model = build_model("llama")
    align(model, tmp_path)
    _, rollback = grace(model, "llama")
    remove_hook_from_submodules(model)
    unedited = logits_of(build_model("llama"))
    with pytest.raises(EditError, match="forward has been replaced"):
        logits_of(model)
    rollback()
    assert equal(logits_of(model), unedited)


def test_wohk_updates_of_offloaded_weights_are_refused(tmp_path: Path) -> None:
    model = build_model("llama")
    unedited = logits_of(model)
    cpu_offload(model, CPU)
    parts = attributes_and_hooks_of(model)
    with pytest.raises(EditError, match="aren't in memory"):
        wohk(model, "llama")
    assert attributes_and_hooks_of(model) == parts
    remove_hook_from_submodules(model)
    _, undo = wohk(model, "llama")
    edited = logits_of(model)
    cpu_offload(model, CPU)
    with pytest.raises(EditError, match="remove accelerate's hooks first"):
        undo()
    assert equal(logits_of(model), edited)
    remove_hook_from_submodules(model)
    undo()
    assert equal(logits_of(model), unedited)
