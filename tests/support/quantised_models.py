"""Quantised tiny models: projections that store their weight as quantisation libraries do."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.tiny_models import build_model


class _Quantised(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.store(linear.weight.detach())

    def store(self, weight: Tensor) -> None:
        raise NotImplementedError

    def numbers(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.numbers().to(x.dtype))


class Int8Linear(_Quantised):
    """A weight of int8 codes, with the shape of the matrix, as bitsandbytes' 8-bit layers have."""

    def store(self, weight: Tensor) -> None:
        self.scale = nn.Buffer(weight.abs().amax(dim=1, keepdim=True) / 127)
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)

    def numbers(self) -> Tensor:
        return self.weight * self.scale


class Int4Linear(_Quantised):
    """A weight of two codes in each byte, in one column, as bitsandbytes' 4-bit layers have."""

    def store(self, weight: Tensor) -> None:
        self.scale = nn.Buffer(weight.abs().max() / 7)
        codes = ((weight / self.scale).round() + 8).flatten().to(torch.uint8)
        self.weight = nn.Parameter((codes[::2] * 16 + codes[1::2]).unsqueeze(1), requires_grad=False)

    def numbers(self) -> Tensor:
        codes = torch.stack([self.weight[:, 0] >> 4, self.weight[:, 0] & 15], dim=1).flatten().float() - 8
        return (codes * self.scale).view(self.out_features, self.in_features)


class PackedLinear(_Quantised):
    """No ``weight``, but a buffer of packed codes, as GPTQ's layers have."""

    def store(self, weight: Tensor) -> None:
        self.qweight = nn.Buffer((weight * 64).round().to(torch.int32))

    def numbers(self) -> Tensor:
        return self.qweight / 64


class Codes(Tensor):
    """A tensor of another class that says it holds floats, as those of torchao and quanto do."""


class SubclassLinear(_Quantised):
    """A weight that is a tensor of another class."""

    def store(self, weight: Tensor) -> None:
        self.weight = nn.Parameter(weight.clone().as_subclass(Codes), requires_grad=False)

    def numbers(self) -> Tensor:
        return self.weight.as_subclass(Tensor)


LAYERS = {"int8": Int8Linear, "int4": Int4Linear, "packed": PackedLinear, "subclass": SubclassLinear}
"""The quantised projections by name."""


def quantise(model: Any, kind: str) -> Any:
    """Quantise the projections of a model's blocks, in place."""
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and path != "lm_head":
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LAYERS[kind](module))
    return model


def quantised_llama(kind: str) -> Any:
    """Return a quantised tiny Llama; ``dynamic``: by torch's ``quantize_dynamic``, otherwise see :data:`LAYERS`."""
    model = build_model("llama")
    if kind != "dynamic":
        return quantise(model, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
