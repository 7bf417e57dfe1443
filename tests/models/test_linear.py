"""The product for few tokens equals the linear layer's, and is removed after its context."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from easyedit_lifelong.models.linear import FewTokenLinears
from tests.support.thoroughness import examples
from tests.support.tiny_models import build_model


def _layer(inputs: int = 24, outputs: int = 40, bias: bool = True, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    torch.manual_seed(inputs * 1000 + outputs)
    return kind(inputs, outputs, bias=bias)


def outputs_and_gradients(layer: nn.Linear, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the output and the input's gradient, without and with the context."""
    results = []
    for modules in ([], [layer]):
        inputs = x.detach().clone().requires_grad_(True)
        with FewTokenLinears(modules).active():
            out = layer(inputs)
            weights = torch.linspace(-1, 1, out.numel()).view_as(out)
            (grad,) = torch.autograd.grad((out * weights).sum(), inputs)
        results.append((out.detach(), grad))
    return results


def _assert_equal_to_the_layer(layer: nn.Linear, x: torch.Tensor) -> None:
    (plain, plain_grad), (fast, fast_grad) = outputs_and_gradients(layer, x)
    assert fast.shape == plain.shape
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast_grad, plain_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", range(1, 13))
def test_equal_to_the_layer_for_any_number_of_rows(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    _assert_equal_to_the_layer(_layer(bias=bias), torch.randn(rows, 24))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 5), (2, 2), (3, 4), (2, 1, 3)])
def test_equal_to_the_layer_in_more_dimensions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    _assert_equal_to_the_layer(_layer(), torch.randn(*shape, 24))


def test_equal_to_the_layer_for_one_vector() -> None:
    torch.manual_seed(0)
    _assert_equal_to_the_layer(_layer(), torch.randn(24))


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_equal_to_the_layer_without_rows(shape: tuple[int, ...]) -> None:
    """A layer of an expert that no token chose gets no rows."""
    _assert_equal_to_the_layer(_layer(), torch.randn(*shape, 24))


def test_equal_to_the_layer_for_an_input_that_is_not_contiguous() -> None:
    torch.manual_seed(0)
    _assert_equal_to_the_layer(_layer(), torch.randn(24, 3).t())
    _assert_equal_to_the_layer(_layer(), torch.randn(4, 2, 24).transpose(0, 1))


@examples(40)
@given(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_equal_to_the_layer_for_any_size(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(rows)
    _assert_equal_to_the_layer(_layer(inputs, outputs, bias), torch.randn(rows, inputs))


def test_only_the_input_receives_a_gradient() -> None:
    layer, x = _layer(), torch.randn(2, 24, requires_grad=True)
    with FewTokenLinears([layer]).active():
        layer(x).sum().backward()
        layer(torch.randn(12, 24, requires_grad=True)).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_the_layers_hooks_still_run() -> None:
    layer, calls = _layer(), []
    layer.register_forward_hook(lambda *_: calls.append("after"))
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    with FewTokenLinears([layer]).active():
        layer(torch.randn(2, 24))
    assert calls == ["before", "after"]


class Subclass(nn.Linear):
    """Computes more than a linear layer, as adapters and quantised layers do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 100


def test_modules_other_than_plain_float32_linears_are_left_unchanged() -> None:
    subclass = _layer(kind=Subclass)
    half, double = _layer().to(torch.bfloat16), _layer().double()
    patched = _layer()
    patched.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.randn(2, 24)
    outputs = [subclass(x), half(x.bfloat16()), double(x.double())]
    with FewTokenLinears([nn.ModuleList([subclass, half, double, patched])]).active():
        inside = [subclass(x), half(x.bfloat16()), double(x.double())]
        assert patched(x) is x
    assert all(torch.equal(a, b) for a, b in zip(outputs, inside, strict=True))
    assert "forward" in patched.__dict__, "the forward of another patch was removed"


def test_a_layer_called_with_its_arguments_name_gives_its_output() -> None:
    layer, x = _layer(), torch.randn(2, 24)
    expected = layer(input=x)
    with FewTokenLinears([layer]).active():
        torch.testing.assert_close(layer(input=x), expected)


def test_autocast_rounds_few_rows_as_it_rounds_many() -> None:
    """Keys of a prompt and of a generated token, which a cache joins, have the same dtype."""
    layer, x = _layer(), torch.randn(2, 24)
    with FewTokenLinears([layer]).active(), torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(rounded, layer(x))


def test_weights_that_are_replaced_or_moved_in_the_context_are_used() -> None:
    layer, x = _layer(), torch.randn(2, 24)
    other = _layer(outputs=40, inputs=24, kind=Subclass).weight * 2
    with FewTokenLinears([layer]).active():
        layer(x)
        layer.weight = nn.Parameter(other)
        torch.testing.assert_close(layer(x), F.linear(x, other, layer.bias))
        layer.half()
        assert layer(x.half()).dtype == torch.float16


def _patched(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if "forward" in module.__dict__]


def test_every_linear_of_the_modules_is_replaced_and_then_restored(llama: Any) -> None:
    with FewTokenLinears([llama.model.layers[3], llama.lm_head]).active():
        inside = _patched(llama)
    assert {path.rpartition(".")[2] for path in inside} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "lm_head",
    }
    assert all(path.startswith(("model.layers.3.", "lm_head")) for path in inside)
    assert _patched(llama) == []


def test_linears_are_restored_after_an_exception(llama: Any) -> None:
    class Interrupt(Exception):
        pass

    patched: list[str] = []
    with pytest.raises(Interrupt), FewTokenLinears([llama]).active():  # noqa: PT012
        patched = _patched(llama)
        raise Interrupt
    assert patched
    assert _patched(llama) == []


def test_contexts_nest_and_a_layer_may_be_given_twice() -> None:
    layer, x = _layer(), torch.randn(2, 24)
    with FewTokenLinears([layer, layer]).active():
        with FewTokenLinears([layer]).active():
            layer(x)
        assert "forward" in layer.__dict__, "the inner context restored the layer for the outer one"
    assert "forward" not in layer.__dict__


def test_a_model_gives_the_same_logits_with_few_token_linears(family: str) -> None:
    model, ids = build_model(family), torch.tensor([[5, 6, 7]])
    plain = model(input_ids=ids).logits
    with FewTokenLinears([model]).active():
        fast = model(input_ids=ids).logits
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 9])
def test_equal_to_a_layer_with_many_outputs(rows: int) -> None:
    torch.manual_seed(0)
    _assert_equal_to_the_layer(_layer(outputs=20_000), torch.randn(rows, 24))


def test_contexts_of_one_object_follow_each_other(llama: Any) -> None:
    linears = FewTokenLinears.for_generation(llama)
    for _ in range(2):
        with linears.active():
            assert "model.layers.0.mlp.up_proj" in _patched(llama)
        assert _patched(llama) == []


def test_a_compiled_model_is_not_changed(llama: Any) -> None:
    with FewTokenLinears.for_generation(torch.compile(llama)).active():
        assert _patched(llama) == []
    with FewTokenLinears.for_generation(nn.ModuleList([torch.compile(llama)])).active():
        assert _patched(llama) == []
    whole = build_model("llama")
    whole.forward = torch.compile(whole.forward)  # as transformers documents it
    with FewTokenLinears.for_generation(whole).active():
        assert _patched(whole) == [""]
    llama.model.layers[0].compile()
    with FewTokenLinears.for_generation(llama).active():
        assert _patched(llama) == []
