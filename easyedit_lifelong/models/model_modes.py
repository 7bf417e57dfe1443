"""Switch a model's mode (evaluation, gradients, dropout) temporarily, and restore it."""

from __future__ import annotations

import contextlib
import logging
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig

from easyedit_lifelong.errors import EditError

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode in this context, and restore every module's mode at its end."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def editing(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode, in its own dtype and with gradients, whatever modes the caller has set.

    Raises:
        EditError: the model was created in inference mode or has quantised layers of torch, so that it can't compute
            gradients.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise EditError(
            "the model was loaded inside torch.inference_mode(), so it can't compute gradients; load it outside"
        )
    quantised = next((path for path, part in model.named_modules() if _is_inference_only(part)), None)
    if quantised is not None:
        raise EditError(
            f"{quantised} is a quantised layer of torch, which has no gradients, so no edit can be trained on this "
            "model. Edit the unquantised model, save the edits of GRACE or CoachHook, and load them onto this one with "
            "load_edits(..., check_weights=False); or quantise with bitsandbytes, whose layers have gradients."
        )
    device = next(model.parameters()).device.type
    with (
        evaluating(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu" if device == "meta" else device, enabled=False),
    ):
        yield


def _is_inference_only(module: nn.Module) -> bool:
    """Return whether a module is one of torch's quantised layers, such as those of ``quantize_dynamic``."""
    return type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized"))


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Compute no gradients of a model's parameters in this context, and restore their ``requires_grad`` at its end."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def dropping_out(modules: Iterable[nn.Module], rate: float, identity: str) -> Iterator[None]:
    """Set the rate of the modules' dropout in this context; 0 changes nothing.

    Args:
        modules: modules that contain the ``nn.Dropout`` modules. Families without such modules (Llama) are unaffected.
        rate: share of activations that are dropped.
        identity: a text from which the random seed is derived. The states of the global random generators are restored.
    """
    if not rate:
        yield
        return
    dropouts = [part for module in modules for part in module.modules() if isinstance(part, nn.Dropout)]
    if not dropouts:
        LOG.warning("dropout: %s has no effect, since the model has no dropout modules after the edited layer", rate)
    previous = [(dropout.p, dropout.training) for dropout in dropouts]
    for dropout in dropouts:
        dropout.p, dropout.training = rate, True
    try:
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(identity.encode()))
            yield
    finally:
        for dropout, (previous_rate, training) in zip(dropouts, previous, strict=True):
            dropout.p, dropout.training = previous_rate, training


@contextlib.contextmanager
def bare_generation_config(model: Any) -> Iterator[None]:
    """Replace the model's generation configuration by transformers' default, inside the context.

    Otherwise ``generate`` takes each setting that it is not given from the checkpoint (repetition penalty, beams,
    suppressed tokens), and greedy text would not be greedy.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


@contextlib.contextmanager
def kept_random_states() -> Iterator[None]:
    """Restore the random generators of Python, NumPy and PyTorch at the end of this context."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
