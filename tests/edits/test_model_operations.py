"""What else a model goes through: compiled, in other modes and dtypes, trained, copied. Edits hold; nothing is left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import load_edits, save_edits
from easyedit_lifelong.errors import EditError
from tests.support.coachhook_edits import same_tensors
from tests.support.edited_models import EDITS, PROMPTS, answers, both_apart, inputs_of, take_off
from tests.support.saved_edits import equal, grace, logits_of
from tests.support.tiny_models import build_model, state_of


@pytest.fixture(params=EDITS)
def edit(request: pytest.FixtureRequest) -> Any:
    """Every way to edit, in turn."""
    return EDITS[request.param]


# ------------------------------------------------------------------ torch.compile


@pytest.mark.parametrize(
    ("method", "backend", "compiled_first"),
    [("GRACE", "eager", False), ("CoachHook", "eager", True), ("both", "aot_eager", True), ("both", "eager", False)],
)
def test_compiled(method: str, backend: str, compiled_first: bool) -> None:
    """Also if it has been compiled, and run, before it was edited; what is compiled is what was edited.

    Without a cache nothing breaks the graph: code compiled for one block serves all, and would leave out hooks.
    """
    torch._dynamo.reset()
    model, plain, edit = build_model("llama"), build_model("llama"), EDITS[method]
    inputs = {**inputs_of(*PROMPTS), "use_cache": False}
    edit(plain, "llama")
    with torch.no_grad():
        unedited, wanted = model(**inputs).logits, plain(**inputs).logits
        compiled = torch.compile(model, backend=backend)
        if compiled_first:
            torch.testing.assert_close(compiled(**inputs).logits, unedited)
        edit(compiled, "llama")
        said = compiled(**inputs).logits
        torch.testing.assert_close(said, wanted)
        assert not torch.allclose(said, unedited, rtol=1e-2, atol=1e-2)
        assert torch.equal(model(**inputs).logits, wanted)
        take_off(compiled)
        torch.testing.assert_close(compiled(**inputs).logits, unedited)
    assert not vars(model).keys() & {"forward", "generate", "save_edits"}


# ------------------------------------------------------------------ what the caller has switched on or off


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_edited_and_run_in_any_mode(edit: Any, mode: Any) -> None:
    models = build_model("llama"), build_model("llama")
    edit(models[0], "llama")
    with mode():
        edit(models[1], "llama")
        inside = [logits_of(model) for model in models]
    assert equal(*inside)
    assert equal(inside[0], logits_of(models[1]))


def test_a_model_made_in_inference_mode_is_refused() -> None:
    with torch.inference_mode():
        model = build_model("llama")
    with pytest.raises(EditError, match="load it outside"):
        grace(model, "llama")
    assert not hasattr(model, "save_edits")


def test_under_autocast(edit: Any) -> None:
    """The model's products are rounded to bfloat16; what an edit compares isn't, and it acts where it did."""
    model = build_model("llama")
    edit(model, "llama")
    edited, inputs = logits_of(model), inputs_of(*PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, plain = logits_of(model), logits_of(build_model("llama"))
    for near, exact, without in [*zip(rounded, edited, plain, strict=True)][: len(PROMPTS)]:
        near, exact, without = near[0, -1], exact[0, -1], without[0, -1]
        assert (near - exact).abs().max() < 0.05 * exact.abs().max()
        assert (near - without).abs().max() > (near - exact).abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        batch = model(**inputs).logits[:, -1]
    torch.testing.assert_close(batch, torch.stack([one[0, -1] for one in rounded[: len(PROMPTS)]]), atol=0.5, rtol=0.1)
    twin = build_model("llama")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        edit(twin, "llama")
    assert equal(logits_of(twin), logits_of(model)), "edits are made in the model's own dtype"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_other_dtypes(edit: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build_model("llama", dtype)
    unedited = logits_of(model)
    edit(model, "llama")
    edited = logits_of(model)
    assert not equal(edited, unedited)
    save_edits(model, tmp_path)
    other = build_model("llama", dtype)
    rollback = load_edits(other, tmp_path)
    assert equal(logits_of(other), edited)
    assert answers(other) == answers(model)
    rollback()
    assert equal(logits_of(other), unedited)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(edit: Any, reentrant: bool) -> None:
    """Blocks that are computed again for their gradients are computed with the edits, after other passes, too."""
    model = build_model("llama")
    edit(model, "llama")
    inputs, others = inputs_of(*PROMPTS), inputs_of("snow and mountain", "blue")

    def trained() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.train()
        model.zero_grad()
        logits = model(**inputs).logits
        loss = logits.square().mean() + model(**others).logits.square().mean()
        with torch.no_grad():
            model(**others)
        loss.backward()
        return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain, gradients = trained()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    functions = [vars(m).get("_gradient_checkpointing_func") for m in model.modules()]
    again, same = trained()
    assert torch.equal(again, plain)
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient)
    assert [vars(m).get("_gradient_checkpointing_func") for m in model.modules()] == functions


def test_editing_leaves_flags_and_modes_alone(edit: Any) -> None:
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


def test_a_copys_edits_are_its_own(edit: Any) -> None:
    model = build_model("llama")
    unedited, state = logits_of(model), state_of(model)
    edit(model, "llama")
    edited, twin = logits_of(model), copy.deepcopy(model)
    take_off(twin)
    assert equal(logits_of(twin), unedited)
    assert same_tensors(state_of(twin), state)
    assert equal(logits_of(model), edited)
    twin = copy.deepcopy(model)
    take_off(model)
    assert equal(logits_of(twin), edited)
    assert equal(logits_of(model), unedited)


def test_moved_there_and_back(edit: Any) -> None:
    """Keys, values and hook weights follow the model to another device, and keep their own dtype."""
    model = build_model("llama")
    edit(model, "llama")
    edited, kept = logits_of(model), state_of(model)
    model.to("cpu", torch.float64).to(torch.float32)
    assert same_tensors(state_of(model), kept)
    assert equal(logits_of(model), edited)
    model.to("meta")
    own = [tensor for name, tensor in model.state_dict().items() if "grace" in name or "coachhook" in name]
    assert own
    assert all(tensor.is_meta for tensor in own)


def test_a_part_of_the_model_alone_is_not_edited() -> None:
    """Where a layer is called by itself, no prompt is known; the layer then is what it was."""
    model = build_model("llama")
    block, hidden = model.model.layers[2].mlp, torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    before = block(hidden)
    both_apart(model, "llama")
    assert torch.equal(block(hidden), before)
