"""Optimise target vectors z: the outputs of the last edited block at the lookup tokens (MEMIT, section 4.2).

For each request of a batch, a change δ is added to the output of that block at the lookup token (ROME: to the output of
its MLP). δ is trained until the model predicts the target in every context. All requests are trained in one batch. Each
request has a separate loss, and its training stops separately. Every δ at which a loss is computed is within the ball
‖δ‖ ≤ clamp_norm_factor · ‖h‖. A step runs only the blocks that δ affects, from the lookup token on, and the output head
only where a token is predicted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.affected_blocks import split_blocks
from easyedit_lifelong.methods.locate_edit.aligned_rows import group_rows
from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.suffix_rows import SuffixRows
from easyedit_lifelong.methods.shared.vector_optimisers import make_optimiser
from easyedit_lifelong.models.gradients import gradients_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.reduced_products import ReducedProducts, reduces_products
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetVectors:
    """The target vectors of a batch.

    Attributes:
        z: the target vectors, shape ``(requests, width)``.
        steps: number of optimiser steps of each request; with ``lbfgs``, of the candidates after the first.
        losses: the loss of each request at z: nats per target token, plus the penalties.
        learned: whether the model, with z, predicted every target token of the request in all contexts.
    """

    z: Tensor
    steps: list[int]
    losses: list[float]
    learned: list[bool]

    @classmethod
    def not_optimised(cls, z: Tensor) -> TargetVectors:
        """Return target vectors that were computed elsewhere, shape ``(requests, width)``, with no steps or losses."""
        count = len(z)
        return cls(z, [0] * count, [float("nan")] * count, [False] * count)

    @classmethod
    def of_all_layers(cls, found: Sequence[TargetVectors]) -> TargetVectors:
        """Return the target vectors of the last layer, with the steps of all layers, learned if all layers' are."""
        steps = [sum(each) for each in zip(*(targets.steps for targets in found), strict=True)]
        learned = [all(each) for each in zip(*(targets.learned for targets in found), strict=True)]
        return dataclasses.replace(found[-1], steps=steps, learned=learned)


def optimise_targets(
    runner: Runner,
    facts: Sequence[Fact],
    hparams: LocateEditHyperParams,
    layer: int,
    projection: nn.Module | None = None,
) -> TargetVectors:
    """Optimise the target vectors of a batch.

    Args:
        runner: runs the model, which is in evaluation mode and has the edits of earlier batches.
        facts: the batch.
        hparams: optimiser, steps, learning rate, penalties.
        layer: number of the last edited block.
        projection: a projection of that block, whose output gets δ instead of the block's; None: the block's.

    Raises:
        EditError: a loss became NaN or infinite; the message names the record.
    """
    products = _reduced_products(runner, hparams, layer, projection)
    groups = [
        SuffixRows(runner, batch_rows, layer, hparams, projection, products)
        for batch_rows in group_rows(facts, runner.model)
    ]
    all_groups = groups if any(group.uses_bfloat16 for group in groups) else []  # for the exact losses of the results
    start = _initial_values(groups, len(facts))
    start_norm = start.norm(dim=1)
    largest = hparams.clamp_norm_factor * start_norm
    optimiser = make_optimiser(hparams.optimizer, torch.zeros_like(start), hparams.v_lr, largest)
    active = torch.arange(len(facts), device=start.device)  # the requests that are still optimised
    found, learned = torch.zeros_like(start), torch.zeros(len(facts), dtype=torch.bool, device=start.device)
    losses = torch.full_like(start_norm, torch.inf)
    steps = torch.zeros(len(facts), dtype=torch.long, device=start.device)
    for step in range(hparams.v_num_grad_steps):
        delta = torch.zeros_like(start).index_copy_(0, active, optimiser.candidates[:, 0]).requires_grad_()
        with torch.enable_grad():
            loss, all_predicted = _losses(groups, delta, len(facts), hparams)
            loss = loss + _weight_decay(delta, start_norm, hparams)
        improved = active
        if step and optimiser.returns_to_best:
            improved = active[loss.detach()[active] < losses[active]]
        else:
            _check_finite(loss, active, facts, step)
        found[improved], losses[improved] = delta.detach()[improved], loss.detach()[improved]
        learned[improved] = all_predicted[improved]
        remaining = (losses[active] >= hparams.v_stop_loss).nonzero().flatten()
        if step == hparams.v_num_grad_steps - 1 or not len(remaining):
            break
        continues = torch.zeros_like(loss).index_fill_(0, active[remaining], 1.0)
        # Each request's loss depends on one row of delta, so one backward pass computes all gradients.
        (gradients,) = gradients_of(loss, [delta], continues)
        if len(remaining) < len(active):
            optimiser.keep(remaining.tolist())
            active = active[remaining]
            selections = [group.without_requests(continues == 0) for group in groups]
            groups = [group for group in selections if group is not None]
        optimiser.step([[value] for value in loss[active].tolist()], gradients[active])
        if not optimiser.returns_to_best:
            _check_changes(optimiser.candidates[:, 0], active, facts, hparams.v_lr)
        steps[active] += 1
        LOG.debug("target vectors, step %d: mean loss %.3f, %d active", step, losses.mean(), len(active))
    if all_groups:
        with torch.no_grad():
            losses, learned = _losses(all_groups, found, len(facts), hparams, exact=True)
            losses = losses + _weight_decay(found, start_norm, hparams)
        _check_finite(losses, torch.arange(len(facts), device=losses.device), facts, int(steps.max()))
    return TargetVectors(start + found, steps.tolist(), losses.tolist(), learned.tolist())


def _reduced_products(
    runner: Runner, hparams: LocateEditHyperParams, layer: int, projection: nn.Module | None
) -> ReducedProducts | None:
    """Return the products of the affected blocks in bfloat16; None if all passes are to be exact.

    The arguments are those of :func:`optimise_targets`.
    """
    if not reduces_products(hparams.train_dtype, runner.device):
        return None
    block = find_module(runner.model, hparams.layer_module_tmp.format(layer))[1]
    blocks = split_blocks(runner, block, projection)
    return None if blocks is None else ReducedProducts(blocks[1])


def _weight_decay(delta: Tensor, start_norm: Tensor, hparams: LocateEditHyperParams) -> Tensor:
    """Return the penalty of each request's change δ, whose hidden state has the norm ``start_norm``."""
    return hparams.v_weight_decay * delta.norm(dim=1) / start_norm.square()


def _check_changes(delta: Tensor, active: Tensor, facts: Sequence[Fact], v_lr: float) -> None:
    """Raise an EditError that names the first request whose δ is too large to have a norm.

    Args:
        delta: the change of each active request, shape ``(active, width)``; NaN where it is too large.
        active: the numbers of the active requests.
        facts: all requests.
        v_lr: the learning rate.
    """
    bad = active[~torch.isfinite(delta).all(dim=1)].tolist()
    if bad:
        raise EditError(
            f"{facts[bad[0]].request.where}: a step of its target vector is too large for {delta.dtype} numbers. "
            f"Lower v_lr, which is {v_lr:g}."
        )


def _initial_values(groups: Sequence[SuffixRows], count: int) -> Tensor:
    """Return the unchanged output at the lookup token of each request's first context, ``(requests, width)``."""
    outputs = groups[0].lookup_outputs
    start = outputs.new_zeros(count, outputs.shape[1], dtype=torch.promote_types(outputs.dtype, torch.float32))
    for group in groups:
        is_first = group.rows.is_first
        start[group.rows.request[is_first]] = group.lookup_outputs[is_first].to(start.dtype)
    return start


def _losses(
    groups: Sequence[SuffixRows], delta: Tensor, count: int, hparams: LocateEditHyperParams, *, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute the losses of all requests, without weight decay.

    Args:
        groups: the rows of the batch.
        delta: the change of each request's hidden state, shape ``(requests, width)``.
        count: the number of requests.
        hparams: ``kl_factor`` is used.
        exact: whether to round nothing; see :meth:`.SuffixRows.log_probabilities`.

    Returns:
        Each request's negative log-likelihood plus KL divergence, and whether every target token of the request was
        the most probable one; both of shape ``(requests,)``.
    """
    loss = delta.new_zeros(count)
    missed_tokens = torch.zeros(count, dtype=torch.long, device=delta.device)
    for group in groups:
        rows = group.rows
        log_probs, divergence = group.log_probabilities(delta, exact=exact)
        if len(rows.targets):
            nll = -log_probs.gather(1, rows.targets.unsqueeze(1)).squeeze(1)
            loss = loss.index_add(0, rows.target_request, (nll * rows.target_weight).to(loss.dtype))
            missed = log_probs.detach().argmax(dim=1) != rows.targets
            missed_tokens.index_add_(0, rows.target_request, missed.long())
        if len(rows.essence_request):
            loss = loss.index_add(0, rows.essence_request, (hparams.kl_factor * divergence).to(loss.dtype))
    return loss, missed_tokens == 0


def _check_finite(loss: Tensor, active: Tensor, facts: Sequence[Fact], step: int) -> None:
    """Raise an EditError that names the first active request whose loss is NaN or infinite."""
    bad = active[~torch.isfinite(loss[active])].tolist()
    if bad:
        raise EditError(
            f"{facts[bad[0]].request.where}: the loss of its target vector became {loss[bad[0]].item()} after {step} "
            "steps; a lower v_lr may help"
        )
