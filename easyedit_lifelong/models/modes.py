"""Run a model in evaluation mode for a while, and leave it as it was found."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from easyedit_lifelong.errors import EditError

LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode inside, and every module back into its own mode after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def editing(model: nn.Module) -> Iterator[None]:
    """Have a model evaluated in its own dtype, with gradients, inside, whatever its caller has switched on or off.

    Raises:
        EditError: the model was made in inference mode, and can't have gradients.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise EditError("the model was loaded inside torch.inference_mode(), which rules out training; load it outside")
    device = next(model.parameters()).device.type
    with (
        evaluating(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu" if device == "meta" else device, enabled=False),
    ):
        yield


@contextlib.contextmanager
def dropping_out(modules: Iterable[nn.Module], rate: float, identity: str) -> Iterator[None]:
    """Let the dropout modules inside drop at this rate; at 0, change nothing.

    Args:
        modules: where to look for them. Families that drop out without modules (Llama) aren't reached.
        rate: share of activations dropped.
        identity: what drops depend on; the process's own generators are left as they were.
    """
    if not rate:
        yield
        return
    found = [m for module in modules for m in module.modules() if isinstance(m, nn.Dropout)]
    if not found:
        LOG.warning("dropout: %s has no effect: the model has no dropout modules after the edited layer", rate)
    before = [(m.p, m.training) for m in found]
    for module in found:
        module.p, module.training = rate, True
    try:
        with torch.random.fork_rng():
            torch.manual_seed(zlib.crc32(identity.encode()))
            yield
    finally:
        for module, (p, training) in zip(found, before, strict=True):
            module.p, module.training = p, training
