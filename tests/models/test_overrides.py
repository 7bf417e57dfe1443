"""Attributes are overridden for a context, and calls of a method run within a context."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor, nn, ones

from easyedit_lifelong.models.overrides import CallWrapper, overridden


class Box:
    """An object with a class attribute."""

    size = 1


def test_the_earlier_attributes_are_restored() -> None:
    with_attribute, plain = Box(), Box()
    with_attribute.size = 2
    with overridden("size", {with_attribute: 3, plain: 4}):
        assert (with_attribute.size, plain.size) == (3, 4)
        with pytest.raises(KeyboardInterrupt), overridden("size", {with_attribute: 5}):
            raise KeyboardInterrupt
        assert with_attribute.size == 3
    assert (with_attribute.size, plain.size) == (2, 1)
    assert vars(plain) == {}


def test_a_failed_override_restores_the_attributes_already_set() -> None:
    class Refusing:
        """An object whose attributes cannot be set."""

        __slots__ = ()

    plain = Box()
    with pytest.raises(TypeError), overridden("size", {plain: 3, Refusing(): 4}):
        pass
    assert vars(plain) == {}


def test_a_second_wrapper_works_after_the_first_was_removed_beneath_another_forward() -> None:
    calls: list[str] = []

    def context(name: str) -> Any:
        @contextlib.contextmanager
        def enter(*_: Any) -> Iterator[None]:
            calls.append(name)
            yield

        return enter

    layer = nn.Linear(2, 2)
    first = CallWrapper(layer, context("first"))
    inner = layer.forward

    @functools.wraps(inner)  # as accelerate wraps the forward of a module
    def moving(*args: Any, **kwargs: Any) -> Any:
        calls.append("moved")
        return inner(*args, **kwargs)

    vars(layer)["forward"] = moving
    first.remove()
    second = CallWrapper(layer, context("second"))
    layer(ones(1, 2))
    assert calls == ["second", "moved"]
    second.remove()
    assert layer.forward is moving


def test_a_modules_forward_is_overridden_only_inside_the_context() -> None:
    layer, x = nn.Linear(2, 2), ones(1, 2)
    expected = layer(x)
    with overridden("forward", {layer: lambda x: x + 1}):
        assert layer(x).tolist() == [[2.0, 2.0]]
    assert layer(x).tolist() == expected.tolist()
    assert "forward" not in vars(layer)


class Generator(nn.Module):
    """A module with the methods ``forward`` and ``generate``."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def generate(self, x: Tensor, *, count: int = 1) -> Tensor:
        return x * count


@pytest.mark.parametrize("name", ["forward", "generate"])
def test_every_call_of_a_wrapped_method_runs_within_its_context(name: str) -> None:
    module, calls = Generator(), list[Any]()

    @contextlib.contextmanager
    def context(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        calls.append(("in", called is module, len(args), kwargs))
        yield
        calls.append("out")

    signature = inspect.signature(getattr(module, name))
    wrapper = CallWrapper(module, context, name)
    assert inspect.signature(getattr(module, name)) == signature
    assert getattr(module, name)(ones(1)).tolist() == [1.0]
    assert calls == [("in", True, 1, {}), "out"]
    kept_method = getattr(module, name)
    assert wrapper.in_place()
    wrapper.remove()
    assert not wrapper.in_place()
    assert name not in vars(module)
    assert kept_method(ones(1)).tolist() == [1.0], "a kept reference doesn't call the original"
    assert len(calls) == 2
