"""Train GRACE values with the fine-tuning loss (arXiv 2211.11031, section 3.2)."""

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
from easyedit_lifelong.methods.shared.divergence import KLDivergence
from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.gradients import gradients_of


@dataclass(frozen=True)
class TrainedValue:
    """A trained value.

    Attributes:
        value: shape ``(value_size,)``, float32.
        steps: number of optimisation steps.
        loss: the last loss, in nats per target token.
        learned: whether the right token was the most likely one at every target token after the last step.
    """

    value: Tensor
    steps: int
    loss: float
    learned: bool


def initial_value(hparams: GraceHyperParams, output: Tensor, identity: str) -> Tensor:
    """Return the initial value of a new key, shape ``(value_size,)``.

    Args:
        hparams: ``val_init`` and ``seed``.
        output: the layer's output at the query token, shape ``(value_size,)``.
        identity: a text that identifies the edit. A cold start depends only on it and on the seed, so neither the
            order of edits nor a resumed run changes it.
    """
    if hparams.val_init == "warm":
        return output.clone()
    return torch.rand(output.shape, generator=_generator(f"{hparams.seed}\x00{identity}")).to(output.device)


def train_values(
    value_pass: ValuePass, starts: Tensor, hparams: GraceHyperParams, identities: Sequence[str], where: Sequence[str]
) -> list[TrainedValue]:
    """Train the values of a batch of edits, independently of each other, with the model frozen.

    An edit that has learned its target leaves the batch; the training of the others continues.

    Args:
        value_pass: the pass over the edits' prompts and targets. Each edit has the same number of consecutive rows:
            ``num_pert`` copies with ``val_train: adv``, its training texts with ``query_token: subject_last``. For rows
            without a target, the loss is the drift of the next token, weighted by ``kl_factor``.
        starts: the initial values, shape ``(edits, value_size)``.
        hparams: learning rate, steps, early stop.
        identities: see :func:`initial_value`; they also seed the noise of ``val_train: adv``.
        where: name of each edit in messages.

    Returns:
        One trained value per edit.

    Raises:
        EditError: a loss or a value became NaN or infinite; the message names the edit.
    """
    rows_per_edit = len(value_pass.targets) // len(starts)
    noise = starts.new_zeros(len(value_pass.targets), 1)
    if hparams.val_train == "adv":
        seeds = [f"{hparams.seed}\x00noise\x00{identity}" for identity in identities]
        noise = torch.cat([_noise(rows_per_edit, starts, seed) for seed in seeds])
    values = starts.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([values], lr=hparams.edit_lr)
    active = list(range(len(starts)))  # the edits that are still trained, in the order of their rows
    trained: dict[int, TrainedValue] = {}
    for steps in range(hparams.n_iter + 1):
        with torch.enable_grad():
            logits = value_pass.logits(values.repeat_interleave(rows_per_edit, dim=0) + noise)
            losses = _losses(logits, value_pass.targets, len(active))
            penalties = hparams.kl_factor * _drift(value_pass, logits, len(active)) if hparams.kl_factor else 0
        remaining = list[int]()  # indices into `active`
        outcomes = zip(active, losses.tolist(), _learned(logits, value_pass.targets, len(active)), strict=True)
        for n, (edit, loss, learned) in enumerate(outcomes):
            if not math.isfinite(loss):
                raise EditError(f"{where[edit]}: the loss became {loss} after {steps} steps; a lower edit_lr may help")
            stops_early = hparams.reg == "early_stop" and learned and loss <= hparams.stop_loss
            if stops_early or steps == hparams.n_iter:
                trained[edit] = TrainedValue(values.detach()[n].clone(), steps, loss, learned)
            else:
                remaining.append(n)
        if not remaining:
            break
        (values.grad,) = gradients_of((losses + penalties).sum(), [values])
        if len(remaining) < len(active):
            kept = torch.tensor(remaining, device=values.device)
            rows = (kept.unsqueeze(1) * rows_per_edit + torch.arange(rows_per_edit, device=kept.device)).flatten()
            value_pass, noise, active = value_pass.select_rows(rows), noise[rows], [active[n] for n in remaining]
            values, optimizer = _select_values(values, optimizer, kept)
        try:
            optimizer.step()
        except RuntimeError as error:
            raise EditError(
                f"{where[active[0]]}: the optimizer failed after {steps} steps: {error}; a lower edit_lr may help"
            ) from error
    for edit, result in trained.items():
        if not torch.isfinite(result.value).all():
            raise EditError(
                f"{where[edit]}: the value became NaN or infinite after {result.steps} steps; a lower edit_lr may help"
            )
    return [trained[edit] for edit in range(len(starts))]


def _losses(logits: Tensor, targets: Tensor, edits: int) -> Tensor:
    """Return each edit's loss, the mean cross-entropy over all target tokens of its rows, ``(edits,)``."""
    per_token = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return per_token.view(edits, -1).sum(dim=1) / (targets != IGNORED).view(edits, -1).sum(dim=1)


def _drift(value_pass: ValuePass, logits: Tensor, edits: int) -> Tensor:
    """Return KL(edited ‖ unedited) of the next token, summed over each edit's rows without a target, ``(edits,)``."""
    no_target = (value_pass.targets == IGNORED).all(dim=1)
    unedited = value_pass.unedited[no_target, 0].float().log_softmax(dim=-1)
    drift = KLDivergence.apply(logits[no_target, 0].float(), unedited)
    rows = torch.arange(len(no_target), device=no_target.device)
    edit_of_row = rows.div(len(no_target) // edits, rounding_mode="floor")
    return logits.new_zeros(edits, dtype=torch.float32).index_add(0, edit_of_row[no_target], drift)


def _learned(logits: Tensor, targets: Tensor, edits: int) -> list[bool]:
    """Return for each edit whether the most likely token is the right one at every target token of its rows."""
    correct = (logits.argmax(dim=-1) == targets) | (targets == IGNORED)
    return correct.view(edits, -1).all(dim=1).tolist()


def _select_values(values: Tensor, optimizer: torch.optim.Adam, kept: Tensor) -> tuple[Tensor, torch.optim.Adam]:
    """Return a selection of the values with their gradients, and an optimizer that continues with their state."""
    selection = values.detach()[kept].clone().requires_grad_(True)
    assert values.grad is not None
    selection.grad = values.grad[kept]
    new_optimizer = torch.optim.Adam([selection], lr=optimizer.param_groups[0]["lr"])
    state = optimizer.state.get(values, {})
    new_optimizer.state[selection] = {name: part[kept] if part.dim() else part for name, part in state.items()}
    return selection, new_optimizer


def _noise(copies: int, starts: Tensor, seed: str) -> Tensor:
    """Return standard normal noise for every copy but the first, which has none, shape ``(copies, value_size)``."""
    noise = torch.randn(copies, starts.shape[1], generator=_generator(seed))
    noise[0] = 0
    return noise.to(starts.device)


def _generator(seed: str) -> torch.Generator:
    """Return a random generator seeded by a text."""
    return torch.Generator().manual_seed(zlib.crc32(seed.encode()))
