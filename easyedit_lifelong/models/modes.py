"""Run a model in evaluation mode for a while, and leave it as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


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
def dropping_out(modules: nn.Module, rate: float) -> Iterator[None]:
    """Let the dropout modules inside drop at this rate; at 0, change nothing."""
    found = [m for m in modules.modules() if isinstance(m, nn.Dropout)] if rate > 0 else []
    before = [(m.p, m.training) for m in found]
    for module in found:
        module.p, module.training = rate, True
    try:
        yield
    finally:
        for module, (p, training) in zip(found, before, strict=True):
            module.p, module.training = p, training
