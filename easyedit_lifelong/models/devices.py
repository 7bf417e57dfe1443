"""Resolve device settings, for this package and for EasyEdit's methods alike."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import torch
from torch import nn

from easyedit_lifelong.errors import DeviceError

LOG = logging.getLogger(__name__)


def resolve_device(device: int | str | torch.device | None = None) -> torch.device:
    """Return the device of this machine that a hyperparameter file's ``device`` means.

    ``None`` and ``"auto"`` mean the first available of CUDA, MPS and the CPU. EasyEdit writes a CUDA index as a bare
    number. Since every EasyEdit YAML contains one, a bare number means the CPU on a machine without CUDA.

    Args:
        device: CUDA index, ``"auto"``, or anything :class:`torch.device` takes.

    Returns:
        The device; a CUDA device has an index.

    Raises:
        DeviceError: this machine has no such device; the message lists the available ones.
    """
    if isinstance(device, torch.device):
        device = str(device)
    if device is None or device == "auto" or device == "":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    text, available = str(device).strip(), available_devices()
    choices = ", ".join(["auto", *available])
    if text.isdigit():
        if not torch.cuda.is_available():
            LOG.warning("device: %s is a CUDA index, but CUDA isn't available; using the CPU", text)
            return torch.device("cpu")
        text = f"cuda:{text}"
    try:
        resolved = torch.device(text)
    except RuntimeError:
        raise DeviceError(f"device: {device!r} is not a device. Use one of: {choices}.") from None
    name = f"cuda:{resolved.index or 0}" if resolved.type == "cuda" else resolved.type
    if name not in (*available, "meta"):
        raise DeviceError(f"device: {device!r} isn't on this machine. Use one of: {choices}.")
    if resolved.type == "cuda" and resolved.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return resolved


def device_of(module: nn.Module) -> torch.device:
    """Return the device on which a module computes.

    If accelerate has offloaded the weights (to the CPU or disk), it is the device to which accelerate moves them for a
    forward pass.
    """
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    if tensor is None:  # torch's quantised modules, which run on the CPU
        return torch.device("cpu")
    device: torch.device = tensor.device
    if device.type != "meta":
        return device
    targets = (getattr(getattr(part, "_hf_hook", None), "execution_device", None) for part in module.modules())
    return next((torch.device(target) for target in targets if target is not None), device)


def input_device(model: Any) -> torch.device:
    """Return the device on which a model expects its token ids."""
    return device_of(model.get_input_embeddings())


def available_devices() -> list[str]:
    """Return the names of the devices of this machine that can hold a model."""
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]
