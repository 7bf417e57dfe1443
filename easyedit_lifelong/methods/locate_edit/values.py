"""Target vectors z: what the last edited block should return where a fact is looked up (MEMIT, section 4.2).

For every request of a batch, a change δ is added to that block's output at the subject's token, and
trained so that the model predicts the target in every context. Requests are trained in one batch, each with
its own loss and its own stop; a step runs only the blocks above, from the subject's token on, and the
output head only where a target is predicted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.placement import group_rows
from easyedit_lifelong.methods.locate_edit.rows import SuffixRows
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetVectors:
    """The outcome for the requests of a batch.

    Attributes:
        z: shape ``(requests, width)``.
        steps: how often each request's vector was moved.
        losses: last loss of each, in nats per target token plus the penalties.
        learned: whether, in each of a request's contexts, every target token was the most probable one.
    """

    z: Tensor
    steps: list[int]
    losses: list[float]
    learned: list[bool]


def optimise_targets(
    runner: Runner, facts: Sequence[Fact], hparams: LocateEditHyperParams, layer: int
) -> TargetVectors:
    """Optimise the target vectors of a batch.

    Args:
        runner: of the model, in evaluation mode, with the edits of earlier batches.
        facts: the batch.
        hparams: steps, learning rate, penalties.
        layer: number of the last edited block.

    Raises:
        EditError: a loss became NaN or infinite; the message names the record.
    """
    groups = [SuffixRows(runner, owned, layer, hparams) for owned in group_rows(facts)]
    start = _initial_values(groups, len(facts))
    scale = start.norm(dim=1)
    delta = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=hparams.v_lr)
    active = torch.ones(len(facts), dtype=torch.bool, device=start.device)
    losses, learned = torch.full_like(scale, float("nan")), torch.zeros_like(active)
    steps = torch.zeros(len(facts), dtype=torch.long, device=start.device)
    for step in range(hparams.v_num_grad_steps):
        with torch.enable_grad():
            loss, right = _losses(groups, delta, len(facts), hparams)
            loss = loss + hparams.v_weight_decay * delta.norm(dim=1) / scale.square()
        _check_finite(loss, active, facts, step)
        losses[active], learned[active] = loss.detach()[active], right[active]
        done = active & (loss.detach() < hparams.v_stop_loss)
        active = active & ~done
        if step == hparams.v_num_grad_steps - 1 or not active.any():
            break
        # The losses of different requests depend on different rows of delta.
        (delta.grad,) = torch.autograd.grad(loss, delta, grad_outputs=active.to(loss.dtype))
        if done.any():
            groups = [group for group in groups if group.without(~active)]
        before = delta.detach().clone()
        optimizer.step()
        with torch.no_grad():
            norm = delta.norm(dim=1)
            limit = hparams.clamp_norm_factor * scale
            delta.mul_(torch.where(norm > limit, limit / norm, 1.0).unsqueeze(1))
            delta[~active] = before[~active]  # Adam's momentum would move finished ones
        steps[active] += 1
        LOG.debug("target vectors, step %d: mean loss %.3f, %d active", step, losses.nanmean(), int(active.sum()))
    return TargetVectors((start + delta).detach(), steps.tolist(), losses.tolist(), learned.tolist())


def _initial_values(groups: Sequence[SuffixRows], count: int) -> Tensor:
    """Return the block's own output where each fact is looked up in its first context, ``(requests, width)``."""
    values = groups[0].values
    start = values.new_zeros(count, values.shape[1], dtype=torch.promote_types(values.dtype, torch.float32))
    for group in groups:
        start[group.at.owner[group.at.first]] = group.values[group.at.first].to(start.dtype)
    return start


def _losses(
    groups: Sequence[SuffixRows], delta: Tensor, count: int, hparams: LocateEditHyperParams
) -> tuple[Tensor, Tensor]:
    """Return each request's likelihood plus divergence loss, and whether its target was predicted everywhere."""
    loss = delta.new_zeros(count)
    missed = torch.zeros(count, dtype=torch.long, device=delta.device)
    for group in groups:
        at = group.at
        answers, drift = group.log_probabilities(delta)
        if len(at.targets):
            nll = -answers.gather(1, at.targets.unsqueeze(1)).squeeze(1)
            loss = loss.index_add(0, at.target_owner, (nll * at.target_weight).to(loss.dtype))
            missed.index_add_(0, at.target_owner, (answers.detach().argmax(dim=1) != at.targets).long())
        if len(at.essence_owner):
            loss = loss.index_add(0, at.essence_owner, (hparams.kl_factor * drift).to(loss.dtype))
    return loss, missed == 0


def _check_finite(loss: Tensor, active: Tensor, facts: Sequence[Fact], step: int) -> None:
    bad = (active & ~torch.isfinite(loss)).nonzero().flatten().tolist()
    if bad:
        raise EditError(
            f"{facts[bad[0]].request.where}: the loss of its target vector became {loss[bad[0]].item()} after {step} "
            "steps; a lower v_lr may help"
        )
