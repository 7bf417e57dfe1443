"""Products in bfloat16: those of rounded factors, in chosen layers, inside their context only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from easyedit_lifelong.models.reduced_products import ReducedProducts, reduces_products
from tests.support.tiny_models import build_model

CPU = torch.device("cpu")


def layer_of(kind: type[nn.Module], bias: bool = True) -> Any:
    torch.manual_seed(0)
    layer: Any = Conv1D(40, 24) if kind is Conv1D else kind(24, 40, bias=bias)
    if bias:
        nn.init.normal_(layer.bias)
    return layer


def rounded(values: Tensor) -> Tensor:
    return values.detach().bfloat16().double()


@pytest.mark.parametrize(("kind", "bias"), [(nn.Linear, True), (nn.Linear, False), (Conv1D, True)])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5)])
def test_a_product_is_that_of_rounded_factors(kind: type[nn.Module], bias: bool, shape: tuple[int, ...]) -> None:
    layer = layer_of(kind, bias)
    x = torch.randn(*shape, 24, requires_grad=True)
    weight = rounded(layer.weight if kind is nn.Linear else layer.weight.t())
    with ReducedProducts([layer]).active():
        result = layer(x)
    expected = rounded(x) @ weight.t() + (layer.bias.double() if bias else 0.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=2**-7, atol=2**-7)
    assert not torch.equal(result, layer(x)), "nothing was rounded"
    upstream = torch.randn_like(result)
    (gradient,) = torch.autograd.grad(result, x, upstream)
    torch.testing.assert_close(gradient.double(), rounded(upstream) @ weight, rtol=2**-6, atol=2**-6)
    assert layer.weight.grad is None


def test_layers_that_are_not_plain_float32_products_stay_exact() -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    adapted, double, half = layer_of(Adapted), layer_of(nn.Linear).double(), layer_of(nn.Linear).bfloat16()
    patched = layer_of(nn.Linear)
    products = ReducedProducts([nn.ModuleList([adapted, double, half, patched])])
    x = torch.randn(3, 24)
    expected = [adapted(x), double(x.double()), half(x.bfloat16())]
    vars(patched)["forward"] = lambda x: x  # such as the restricted output head
    with products.active():
        assert torch.equal(adapted(x), expected[0])
        assert torch.equal(double(x.double()), expected[1])
        assert torch.equal(half(x.bfloat16()), expected[2])
        assert patched(x) is x


def test_a_model_is_exact_again_after_the_context(family: str) -> None:
    model, ids = build_model(family), torch.tensor([[5, 6, 7]])
    plain = model(input_ids=ids).logits
    products = ReducedProducts([model])
    with pytest.raises(KeyboardInterrupt), products.active():
        raise KeyboardInterrupt
    assert torch.equal(model(input_ids=ids).logits, plain)
    with products.active():
        reduced = model(input_ids=ids).logits
    assert not torch.equal(reduced, plain)
    assert (reduced - plain).norm() < 0.05 * plain.norm()


def test_auto_asks_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reduces_products("bfloat16", CPU)
    assert not reduces_products(None, CPU)
    for capabilities, expected in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=capabilities: known, raising=False)
        assert reduces_products("auto", CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not reduces_products("auto", CPU)
    assert not reduces_products("auto", torch.device("mps"))
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, known=capability: known)
        assert reduces_products("auto", torch.device("cuda", 1)) is expected
