"""Tell whether two models have the same weights, without comparing the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.wrappers import adapters_of, bare_model

_SAMPLES = 256
"""Values of each parameter that are hashed one by one, first and last among them."""
_CHUNK = 1 << 24
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_fingerprint(model: Any) -> str:
    """Return a fingerprint of a model's weights: 64 hexadecimal digits.

    It is a SHA-256 over every parameter's name, shape, dtype, evenly strided sample of values, and the
    sum of its bit patterns as whole numbers. The sample tells other weights apart; the sum notices
    the change of a single value anywhere, and whole numbers add up to the same on every device,
    in every order. One pass over the weights: about 0.2 s for 135 million float32 parameters on one core.

    Buffers don't count: they are either constants of the architecture or caches. Adapters (LoRA) do, and which
    of them are active: what is edited is the model as it answers with them.

    Args:
        model: any module, on any device; accelerate may have its parameters elsewhere.

    Raises:
        ModelError: the model has no parameters, or they can't be had (meta device).
    """
    model, digest = bare_model(model), hashlib.sha256()
    parameters = sorted(_parameters(model), key=lambda item: item[0])
    if not parameters:
        raise ModelError(f"{type(model).__name__} has no parameters to take a fingerprint of")
    for name, parameter in parameters:
        values = _offloaded(model, name) if parameter.is_meta else parameter.detach()
        dtype = str(values.dtype).removeprefix("torch.")
        digest.update(f"{name} {tuple(values.shape)} {dtype}\n".encode())
        digest.update(_digest(values))
    for name, module in model.named_modules():
        if adapters := adapters_of(module):
            digest.update(f"{name} with {' '.join(adapters)}\n".encode())
    return digest.hexdigest()


def _parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield every parameter once, also where offloading has parted those that were one."""
    tied = getattr(model, "all_tied_weights_keys", None) or ()
    return ((name, value) for name, value in model.named_parameters() if not (value.is_meta and name in tied))


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """Return the values of a parameter that accelerate keeps elsewhere: on the CPU, or on disk."""
    path, _, own = name.rpartition(".")
    hook = getattr(model.get_submodule(path), "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if (kept := getattr(one, "weights_map", None)) is not None:
            values = kept[own]
            assert isinstance(values, Tensor)
            return values
    raise ModelError(f"parameter {name!r} is not in memory (meta device): no fingerprint of it")


def _digest(values: Tensor) -> bytes:
    """Return a parameter's sampled bit patterns and the sum of all of them."""
    flat = values.reshape(-1)
    if flat.numel() == 0:
        return b""
    if flat.dtype.is_complex:
        flat = torch.view_as_real(flat).reshape(-1)
    bits = flat.view(_INTEGERS[flat.element_size()])
    step = max(1, bits.numel() // _SAMPLES)
    sample = torch.cat([bits[::step], bits[-1:]]).cpu().contiguous()
    # Sums wrap around at 64 bits, the same everywhere; in chunks, for the sake of devices that copy.
    total = sum(int(part.sum(dtype=torch.int64)) for part in bits.split(_CHUNK)) % (1 << 64)
    return sample.numpy().tobytes() + total.to_bytes(8, "little")
