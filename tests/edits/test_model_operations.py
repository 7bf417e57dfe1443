"""Edited models that are compiled, trained, copied, moved, or run in other modes and dtypes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import load_edits, save_edits
from easyedit_lifelong.errors import EditError
from tests.support.coachhook_edits import equal_states
from tests.support.edited_models import EDITS, PROMPTS, answers, edit_with_both, inputs_of, remove_all_edits
from tests.support.saved_edits import equal, grace, logits_of
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_model, state_of


@pytest.fixture(params=EDITS)
def edit(request: pytest.FixtureRequest) -> Any:
    """Edits by GRACE, by CoachHook, and by both."""
    return EDITS[request.param]


# ------------------------------------------------------------------ torch.compile


@pytest.mark.parametrize(
    ("method", "backend", "compiled_first"),
    default_cases(
        [
            ("GRACE", "eager", False),
            ("CoachHook", "eager", True),
            ("both", "aot_eager", True),
            ("both", "eager", False),
        ],
        ("GRACE", "eager", False),
        ("both", "aot_eager", True),
    ),
)
def test_a_compiled_model_gives_the_logits_of_the_edited_model(method: str, backend: str, compiled_first: bool) -> None:
    """The model may be compiled and run before it is edited.

    Without a cache there is no graph break: code that is compiled for one block serves all, and could omit hooks.
    """
    torch._dynamo.reset()
    model, plain, edit = build_model("llama"), build_model("llama"), EDITS[method]
    inputs = {**inputs_of(*PROMPTS), "use_cache": False}
    edit(plain, "llama")
    with torch.no_grad():
        unedited, expected = model(**inputs).logits, plain(**inputs).logits
        compiled = torch.compile(model, backend=backend)
        if compiled_first:
            torch.testing.assert_close(compiled(**inputs).logits, unedited)
        edit(compiled, "llama")
        logits = compiled(**inputs).logits
        torch.testing.assert_close(logits, expected)
        assert not torch.allclose(logits, unedited, rtol=1e-2, atol=1e-2)
        assert torch.equal(model(**inputs).logits, expected)
        remove_all_edits(compiled)
        torch.testing.assert_close(compiled(**inputs).logits, unedited)
    assert not vars(model).keys() & {"forward", "generate", "save_edits"}


# ------------------------------------------------------------------ grad modes, autocast and dtypes


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_edits_are_the_same_in_every_grad_mode(edit: Any, mode: Any) -> None:
    models = build_model("llama"), build_model("llama")
    edit(models[0], "llama")
    with mode():
        edit(models[1], "llama")
        logits = [logits_of(model) for model in models]
    assert equal(*logits)
    assert equal(logits[0], logits_of(models[1]))


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = build_model("llama")
    with pytest.raises(EditError, match="load it outside"):
        grace(model, "llama")
    assert not hasattr(model, "save_edits")


def test_edits_act_under_autocast_and_are_made_in_the_dtype_of_the_model(edit: Any) -> None:
    """Autocast rounds the model's products to bfloat16, but not the distances and scores that an edit compares."""
    model = build_model("llama")
    edit(model, "llama")
    edited, inputs = logits_of(model), inputs_of(*PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, plain = logits_of(model), logits_of(build_model("llama"))
    for rounded_logits, exact_logits, unedited_logits in [*zip(rounded, edited, plain, strict=True)][: len(PROMPTS)]:
        rounded_logits, exact_logits, unedited_logits = (
            rounded_logits[0, -1],
            exact_logits[0, -1],
            unedited_logits[0, -1],
        )
        assert (rounded_logits - exact_logits).abs().max() < 0.05 * exact_logits.abs().max()
        assert (rounded_logits - unedited_logits).abs().max() > (rounded_logits - exact_logits).abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        batch = model(**inputs).logits[:, -1]
    torch.testing.assert_close(
        batch, torch.stack([logits[0, -1] for logits in rounded[: len(PROMPTS)]]), atol=0.5, rtol=0.1
    )
    twin = build_model("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        edit(twin, "llama")
    assert equal(logits_of(twin), logits_of(model)), "edits made under autocast must equal those made without"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_edits_are_made_saved_and_loaded_in_every_dtype(edit: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model("llama", dtype)
    unedited = logits_of(model)
    edit(model, "llama")
    edited = logits_of(model)
    assert not equal(edited, unedited)
    save_edits(model, tmp_path)
    loaded = build_model("llama", dtype)
    rollback = load_edits(loaded, tmp_path)
    assert equal(logits_of(loaded), edited)
    assert answers(loaded) == answers(model)
    rollback()
    assert equal(logits_of(loaded), unedited)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_logits_and_gradients(edit: Any, reentrant: bool) -> None:
    """Checkpointed blocks are recomputed with the edits, also if other prompts were run in between."""
    model = build_model("llama")
    edit(model, "llama")
    inputs, other_inputs = inputs_of(*PROMPTS), inputs_of("snow and mountain", "blue")

    def backward() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.train()
        model.zero_grad()
        output = model(**inputs).logits
        loss = output.square().mean() + model(**other_inputs).logits.square().mean()
        with torch.no_grad():
            model(**other_inputs)
        loss.backward()
        return output.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    logits, gradients = backward()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    functions = [vars(m).get("_gradient_checkpointing_func") for m in model.modules()]
    checkpointed_logits, checkpointed_gradients = backward()
    assert torch.equal(checkpointed_logits, logits)
    assert gradients.keys() == checkpointed_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(checkpointed_gradients[name], gradient)
    assert [vars(m).get("_gradient_checkpointing_func") for m in model.modules()] == functions


def test_editing_keeps_modes_flags_and_weights(edit: Any) -> None:
    model = build_model("llama")
    model.gradient_checkpointing_enable()
    model.train()
    model.model.layers[1].eval()
    model.model.layers[0].requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)

    def flags() -> list[Any]:
        modules = [(m.training, getattr(m, "gradient_checkpointing", None)) for m in parts]
        return [modules, [(p.requires_grad, p.grad is None) for p in model.parameters()]]

    parts = list(model.modules())
    before, state = flags(), state_of(model)
    edit(model, "llama")
    assert flags() == before
    assert model.is_gradient_checkpointing
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


# ------------------------------------------------------------------ copies, and other devices


def test_the_edits_of_a_copy_are_independent(edit: Any) -> None:
    model = build_model("llama")
    unedited, state = logits_of(model), state_of(model)
    edit(model, "llama")
    edited, twin = logits_of(model), copy.deepcopy(model)
    remove_all_edits(twin)
    assert equal(logits_of(twin), unedited)
    assert equal_states(state_of(twin), state)
    assert equal(logits_of(model), edited)
    twin = copy.deepcopy(model)
    remove_all_edits(model)
    assert equal(logits_of(twin), edited)
    assert equal(logits_of(model), unedited)


def test_edits_follow_the_model_to_another_dtype_and_device(edit: Any) -> None:
    """Keys, values and hook weights move with the model and keep their dtype."""
    model = build_model("llama")
    edit(model, "llama")
    edited, state = logits_of(model), state_of(model)
    model.to("cpu", torch.float64).to(torch.float32)
    assert equal_states(state_of(model), state)
    assert equal(logits_of(model), edited)
    model.to("meta")
    edit_tensors = [tensor for name, tensor in model.state_dict().items() if "grace" in name or "coachhook" in name]
    assert edit_tensors
    assert all(tensor.is_meta for tensor in edit_tensors)


def test_a_layer_called_outside_the_model_is_not_edited() -> None:
    """A layer that is called directly has no prompt; its output is that of the base model."""
    model = build_model("llama")
    block, hidden = model.model.layers[2].mlp, torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    before = block(hidden)
    edit_with_both(model, "llama")
    assert torch.equal(block(hidden), before)
