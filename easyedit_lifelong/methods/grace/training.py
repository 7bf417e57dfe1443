"""Train a GRACE value by the fine-tuning loss (arXiv 2211.11031, section 3.2)."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.lessons import Lesson


@dataclass(frozen=True)
class Trained:
    """A trained value.

    Attributes:
        value: shape ``(value_size,)``, float32.
        steps: optimisation steps taken.
        loss: last loss computed, in nats per target token.
        learned: whether the right token was the most probable one at every target token by then.
    """

    value: Tensor
    steps: int
    loss: float
    learned: bool


def initial_value(hparams: GraceHyperParams, output: Tensor, identity: str) -> Tensor:
    """Return where a new value starts, shape ``(value_size,)``.

    Args:
        hparams: ``val_init`` and ``seed``.
        output: the layer's output at the prompt's last token.
        identity: what sets this edit apart; a cold start depends on it and on the seed alone, so
            that neither the order of edits nor a resumed run changes it.
    """
    if hparams.val_init == "warm":
        return output.clone()
    generator = torch.Generator().manual_seed(zlib.crc32(f"{hparams.seed}\x00{identity}".encode()))
    return torch.rand(output.shape, generator=generator).to(output.device)


def train_value(lesson: Lesson, start: Tensor, hparams: GraceHyperParams, identity: str) -> Trained:
    """Train one value against the frozen model.

    Args:
        lesson: the edit's prompt and target; ``num_pert`` copies of it for ``val_train: adv``.
        start: where the value starts, shape ``(value_size,)``.
        hparams: learning rate, steps, early stop.
        identity: see :func:`initial_value`; seeds the noise of ``val_train: adv``.

    Raises:
        EditError: the loss or the value became NaN or infinite.
    """
    value = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([value], lr=hparams.edit_lr)
    copies = len(lesson.targets)
    noise = _noise(copies, value, f"{hparams.seed}\x00noise\x00{identity}")
    loss, learned, steps = float("nan"), False, 0
    for steps in range(hparams.n_iter + 1):
        with torch.enable_grad():
            logits = lesson.logits(value.unsqueeze(0) + noise)
            objective = F.cross_entropy(logits.flatten(0, 1).float(), lesson.targets.flatten())
        loss = objective.item()
        if not math.isfinite(loss):
            raise EditError(f"the loss became {loss} after {steps} steps; a lower edit_lr may help")
        real = lesson.targets != -100
        learned = bool((logits.argmax(dim=-1) == lesson.targets)[real].all())
        if steps == hparams.n_iter or (hparams.reg == "early_stop" and learned and loss <= hparams.stop_loss):
            break
        (value.grad,) = torch.autograd.grad(objective, value)
        try:
            optimizer.step()
        except RuntimeError as error:
            raise EditError(f"the optimizer failed after {steps} steps: {error}; a lower edit_lr may help") from error
    if not torch.isfinite(value).all():
        raise EditError(f"the value became NaN or infinite after {steps} steps; a lower edit_lr may help")
    return Trained(value.detach(), steps, loss, learned)


def _noise(copies: int, value: Tensor, identity: str) -> Tensor:
    """Standard normal noise for every copy but the first, shape ``(copies, value_size)``."""
    generator = torch.Generator().manual_seed(zlib.crc32(identity.encode()))
    noise = torch.randn(copies, len(value), generator=generator)
    noise[0] = 0
    return noise.to(value.device)
