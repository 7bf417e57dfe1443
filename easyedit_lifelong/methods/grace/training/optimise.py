"""Train GRACE values by the fine-tuning loss (arXiv 2211.11031, section 3.2)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.methods.shared.divergence import Drift
from easyedit_lifelong.models.encoding import IGNORED


@dataclass(frozen=True)
class Trained:
    """A trained value.

    Attributes:
        value: shape ``(value_size,)``, float32.
        steps: optimisation steps taken.
        loss: last loss computed, in nats per target token.
        learned: whether the right token was then the most probable one at every target token.
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
        identity: what distinguishes this edit; a cold start depends on it and on the seed alone, so
            that neither the order of edits nor a resumed run changes it.
    """
    if hparams.val_init == "warm":
        return output.clone()
    return torch.rand(output.shape, generator=_generator(f"{hparams.seed}\x00{identity}")).to(output.device)


def train_values(
    value_pass: ValuePass, starts: Tensor, hparams: GraceHyperParams, identities: Sequence[str], where: Sequence[str]
) -> list[Trained]:
    """Train the values of some edits against the frozen model, independently, in the same passes.

    An edit that has learned its target leaves the batch, and the training of the others continues.

    Args:
        value_pass: over the edits' prompts and targets: for each edit the same number of consecutive rows, ``num_pert``
            with ``val_train: adv``, its contexts with ``query_token: subject_last``. In rows without a target, the
            model's output is to stay (``kl_factor``).
        starts: where the values start, shape ``(edits, value_size)``.
        hparams: learning rate, steps, early stop.
        identities: see :func:`initial_value`; seed the noise of ``val_train: adv``.
        where: name of each edit in messages.

    Raises:
        EditError: a loss or a value became NaN or infinite; the message names the edit.
    """
    copies = len(value_pass.targets) // len(starts)
    noise = starts.new_zeros(len(value_pass.targets), 1)
    if hparams.val_train == "adv":
        drawn = [_noise(copies, starts, f"{hparams.seed}\x00noise\x00{identity}") for identity in identities]
        noise = torch.cat(drawn)
    values = starts.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([values], lr=hparams.edit_lr)
    training, trained = list(range(len(starts))), dict[int, Trained]()
    for steps in range(hparams.n_iter + 1):
        with torch.enable_grad():
            logits = value_pass.logits(values.repeat_interleave(copies, dim=0) + noise)
            losses = _losses(logits, value_pass.targets, len(training))
            penalties = hparams.kl_factor * _drift(value_pass, logits, len(training)) if hparams.kl_factor else 0
        remaining = list[int]()
        for n, (loss, learned) in enumerate(
            zip(losses.tolist(), _learned(logits, value_pass.targets, len(training)), strict=True)
        ):
            edit = training[n]
            if not math.isfinite(loss):
                raise EditError(f"{where[edit]}: the loss became {loss} after {steps} steps; a lower edit_lr may help")
            stopped = hparams.reg == "early_stop" and learned and loss <= hparams.stop_loss
            if stopped or steps == hparams.n_iter:
                trained[edit] = Trained(values.detach()[n].clone(), steps, loss, learned)
            else:
                remaining.append(n)
        if not remaining:
            break
        (values.grad,) = torch.autograd.grad((losses + penalties).sum(), values)
        if len(remaining) < len(training):
            kept = torch.tensor(remaining, device=values.device)
            rows = (kept.unsqueeze(1) * copies + torch.arange(copies, device=kept.device)).flatten()
            value_pass, noise, training = value_pass.select_rows(rows), noise[rows], [training[n] for n in remaining]
            values, optimizer = _select(values, optimizer, kept)
        try:
            optimizer.step()
        except RuntimeError as error:
            raise EditError(
                f"{where[training[0]]}: the optimizer failed after {steps} steps: {error}; a lower edit_lr may help"
            ) from error
    for edit, one in trained.items():
        if not torch.isfinite(one.value).all():
            raise EditError(
                f"{where[edit]}: the value became NaN or infinite after {one.steps} steps; a lower edit_lr may help"
            )
    return [trained[edit] for edit in range(len(starts))]


def _losses(logits: Tensor, targets: Tensor, edits: int) -> Tensor:
    """Return each edit's loss, the mean over all target tokens of its rows, ``(edits,)``."""
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return each.view(edits, -1).sum(dim=1) / (targets != IGNORED).view(edits, -1).sum(dim=1)


def _drift(value_pass: ValuePass, logits: Tensor, edits: int) -> Tensor:
    """Return how far the output in each edit's rows without a target has moved: KL(now ‖ unedited), ``(edits,)``."""
    kept = (value_pass.targets == IGNORED).all(dim=1)
    before = value_pass.unedited[kept, 0].float().log_softmax(dim=-1)
    drift = Drift.apply(logits[kept, 0].float(), before)
    owner = torch.arange(len(kept), device=kept.device).div(len(kept) // edits, rounding_mode="floor")[kept]
    return logits.new_zeros(edits, dtype=torch.float32).index_add(0, owner, drift)


def _learned(logits: Tensor, targets: Tensor, edits: int) -> list[bool]:
    """Return for each edit whether the most probable token is the right one at every target token of its rows."""
    right = (logits.argmax(dim=-1) == targets) | (targets == IGNORED)
    return right.view(edits, -1).all(dim=1).tolist()


def _select(values: Tensor, optimizer: torch.optim.Adam, kept: Tensor) -> tuple[Tensor, torch.optim.Adam]:
    """Return some of the values, with their gradient, and an optimizer with the same state for them."""
    some = values.detach()[kept].clone().requires_grad_(True)
    assert values.grad is not None
    some.grad = values.grad[kept]
    smaller = torch.optim.Adam([some], lr=optimizer.param_groups[0]["lr"])
    state = optimizer.state.get(values, {})
    smaller.state[some] = {name: one[kept] if one.dim() else one for name, one in state.items()}
    return some, smaller


def _noise(copies: int, starts: Tensor, identity: str) -> Tensor:
    """Return standard normal noise for every copy but the first, shape ``(copies, value_size)``."""
    noise = torch.randn(copies, starts.shape[1], generator=_generator(identity))
    noise[0] = 0
    return noise.to(starts.device)


def _generator(identity: str) -> torch.Generator:
    """Return a generator whose numbers depend on this text alone."""
    return torch.Generator().manual_seed(zlib.crc32(identity.encode()))
