"""One rule for what a device setting means, shared by our code and by the bridge to EasyEdit."""

from __future__ import annotations

import logging

import torch
from torch import nn

from easyedit_lifelong.errors import DeviceError

LOG = logging.getLogger(__name__)


def resolve_device(device: int | str | torch.device | None = None) -> torch.device:
    """Turn a hyperparameter file's ``device`` into a device of this machine.

    ``None`` and ``"auto"`` mean the best one there is. A bare number is EasyEdit's way to write a
    CUDA index; since every EasyEdit YAML carries one, it means the CPU on a machine without CUDA.

    Args:
        device: CUDA index, ``"auto"``, or anything :class:`torch.device` takes.

    Returns:
        The device, with an index where CUDA is meant.

    Raises:
        DeviceError: the device isn't there; the message lists what is.
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
            LOG.info("device: %s names a CUDA device; there is none, using the CPU", text)
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
    """Return the device that a module computes on.

    Accelerate keeps weights elsewhere (on the CPU, on disk) and brings them for the time of a pass; then it is
    the one that it brings them to.
    """
    device: torch.device = next(module.parameters()).device
    if device.type != "meta":
        return device
    targets = (getattr(getattr(part, "_hf_hook", None), "execution_device", None) for part in module.modules())
    return next((torch.device(target) for target in targets if target is not None), device)


def available_devices() -> list[str]:
    """Name the devices that a model can be put on here."""
    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]
