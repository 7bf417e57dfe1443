"""The position tracker on a model: nested passes, exceptions, attaching, detaching and copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from easyedit_lifelong.models.prompt_positions import PositionTracker, prompt_lengths
from tests.support.position_recorder import PositionRecorder, greedy_config, padded_batch
from tests.support.tiny_models import build_model


def test_a_pass_of_the_inner_model_is_tracked(family_recorder: PositionRecorder) -> None:
    family_recorder.model.base_model(**padded_batch("right"))
    assert family_recorder.ends == [[2, 4]]
    assert family_recorder.tracker.window is None


def test_the_window_of_an_outer_pass_is_kept_by_the_inner_model(family_recorder: PositionRecorder) -> None:
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    family_recorder.model(**padded_batch("right"), labels=labels)
    assert family_recorder.ends == [[0, 0]]


class Interrupt(Exception):
    """The error that a hook raises."""


def _raise(*_: Any, **__: Any) -> None:
    raise Interrupt


def _raise_keyboard_interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("called", ["inner model", "outer model"])
@pytest.mark.parametrize("where", ["block", "inner model", "outer model"])
@pytest.mark.parametrize("hook", [_raise, _raise_keyboard_interrupt])
def test_an_exception_inside_a_pass_leaves_no_state(
    recorder: PositionRecorder, called: str, where: str, hook: Any
) -> None:
    """A user who interrupts a cell of a notebook continues with the same model."""
    model = recorder.model
    modules = {"block": model.model.layers[1], "inner model": model.model, "outer model": model}
    handle = modules[where].register_forward_pre_hook(hook)
    if (called, where) != ("inner model", "outer model"):  # otherwise the hook isn't reached
        with pytest.raises((Interrupt, KeyboardInterrupt)):
            modules[called](**padded_batch("left"))
    handle.remove()
    _assert_positions_are_tracked(recorder)


@pytest.mark.parametrize("inner", [True, False])
def test_an_exception_in_an_earlier_hook_leaves_no_state(llama: Any, inner: bool) -> None:
    """The hook was registered before the tracker's, so that the tracker never sees the pass begin."""
    handle = (llama.model if inner else llama).register_forward_pre_hook(_raise)
    recorder = PositionRecorder(llama)
    with pytest.raises(Interrupt):
        llama(**padded_batch("left"))
    handle.remove()
    _assert_positions_are_tracked(recorder)
    recorder.close()


def test_an_exception_inside_generate_leaves_no_state(recorder: PositionRecorder) -> None:
    handle = recorder.model.model.layers[1].register_forward_pre_hook(_raise)
    with pytest.raises(Interrupt):
        recorder.model.generate(**padded_batch("left"), generation_config=greedy_config(2))
    handle.remove()
    _assert_positions_are_tracked(recorder)


def test_an_exception_inside_given_lengths_leaves_no_state(recorder: PositionRecorder) -> None:
    with pytest.raises(Interrupt), prompt_lengths(recorder.model, [1, 1]):
        raise Interrupt
    _assert_positions_are_tracked(recorder)


def _assert_positions_are_tracked(recorder: PositionRecorder) -> None:
    assert recorder.tracker.window is None
    recorder.ends.clear()
    labels = torch.tensor([[-100, 6, 7, -100, -100], [-100, 9, 10, 11, 12]])
    recorder.model.base_model(**padded_batch("right"))
    recorder.model(**padded_batch("right"))
    recorder.model(**padded_batch("right"), labels=labels)
    recorder.model.generate(**padded_batch("right"), generation_config=greedy_config(1))
    assert recorder.ends == [[2, 4], [2, 4], [0, 0], [2, 4]]
    assert recorder.tracker.window is None


def _module_attributes(model: nn.Module) -> dict[str, Any]:
    """Return all attributes of the modules, except parameters, buffers and submodules."""
    return {
        f"{path}.{name}": dict(value) if isinstance(value, dict) else value
        for path, module in model.named_modules()
        for name, value in module.__dict__.items()
        if name not in {"_parameters", "_buffers", "_modules"}
    }


def test_detaching_restores_every_attribute_of_the_model(family: str) -> None:
    model = build_model(family)
    before = _module_attributes(model)
    tracker = PositionTracker.attach(model)
    assert _module_attributes(model) != before
    tracker.detach()
    assert _module_attributes(model) == before


def test_attachments_share_one_tracker_that_the_last_detach_removes(llama: Any) -> None:
    first, second = PositionTracker.attach(llama), PositionTracker.attach(llama)
    assert first is second is PositionTracker.of(llama)
    first.detach()
    assert PositionTracker.of(llama) is second
    second.detach()
    assert PositionTracker.of(llama) is None


def test_other_models_of_the_same_class_have_no_tracker(recorder: PositionRecorder) -> None:
    other = build_model("llama")
    assert PositionTracker.of(other) is None
    assert other.generate.__func__ is type(other).generate


def test_a_copied_model_has_an_independent_tracker(recorder: PositionRecorder) -> None:
    model, model_copy = recorder.model, copy.deepcopy(recorder.model)
    tracker = PositionTracker.of(model_copy)
    assert tracker is not None
    assert tracker is not recorder.tracker
    assert tracker.model is model_copy
    windows: list[Any] = []

    def record(*_: Any) -> None:
        window, original_window = tracker.window, recorder.tracker.window
        windows.append((None if window is None else window.ends.tolist(), original_window))

    handle = model_copy.model.layers[0].register_forward_hook(record)
    model_copy(**padded_batch("right"))
    with prompt_lengths(model_copy, [1, 1]):
        model_copy(**padded_batch("right"))
    with prompt_lengths(model, [1, 1]):
        model_copy(**padded_batch("right"))
    model_copy.generate(**padded_batch("right"), generation_config=greedy_config(2))
    assert windows == [([2, 4], None), ([0, 0], None), ([2, 4], None), ([2, 4], None), ([-1, -1], None)]

    # The original is unaffected, and the copy's tracker is detached without it.
    recorder.ends.clear()
    model(**padded_batch("left"))
    assert recorder.ends == [[4, 4]]
    tracker.detach()
    assert PositionTracker.of(model_copy) is None
    assert "generate" not in model_copy.__dict__
    handle.remove()
    assert not model_copy._forward_hooks
    assert not model_copy._forward_pre_hooks
    assert PositionTracker.of(model) is recorder.tracker
