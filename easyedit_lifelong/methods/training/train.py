"""The training loop: Adam on the losses of training examples, with penalties, a constraint, and early stops."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from easyedit_lifelong.methods.training.example_passes import ExamplePasses, Weights
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.gradients import gradients_of
from easyedit_lifelong.plurals import counted

LOG = logging.getLogger(__name__)

Penalty = Callable[[Sequence[Example], Weights], Tensor]
"""Returns a term of the loss, given the examples of a step and the trained weights."""


@dataclass(frozen=True)
class Schedule:
    """How long and in which order examples are trained on.

    Attributes:
        epochs: largest number of passes over the examples.
        lr: learning rate of Adam.
        weight_decay: L2 penalty in Adam's gradient.
        examples_per_step: largest number of examples in one step.
        stop_loss: make no step below this loss, and stop when the mean over an epoch is below it.
        stop_when_correct: make no step for examples whose target tokens are all predicted, and stop when all are.
        random_order: shuffles the examples in each epoch; None: keep their order.
    """

    epochs: int
    lr: float
    weight_decay: float = 0.0
    examples_per_step: int = 1
    stop_loss: float = 0.0
    stop_when_correct: bool = False
    random_order: random.Random | None = None


def train(
    passes: ExamplePasses,
    weights: Weights,
    examples: Sequence[Example],
    schedule: Schedule,
    penalties: Sequence[Penalty] = (),
    constrain: Callable[[Weights], None] | None = None,
) -> list[float]:
    """Train weights on examples, in place, with a new Adam.

    The loss of a step is the mean over its examples of the mean cross-entropy of their target tokens, plus penalties.

    Args:
        passes: runs the examples.
        weights: the weights, which require gradients.
        examples: the examples.
        schedule: the schedule.
        penalties: terms that are added to the loss. ``stop_loss`` is compared with the loss without them.
        constrain: called after every step with the weights, which it can change in place.

    Returns:
        The loss of each step, penalties included, in nats per target token.

    Raises:
        EditError: a loss became NaN or infinite; the message names the edit.
    """
    optimizer = torch.optim.Adam(list(weights.values()), lr=schedule.lr, weight_decay=schedule.weight_decay)
    step_losses: list[float] = []
    for epoch in range(schedule.epochs):
        order = list(examples)
        if schedule.random_order is not None:
            schedule.random_order.shuffle(order)
        epoch_loss, all_correct = 0.0, True
        for begin in range(0, len(order), schedule.examples_per_step):
            batch = order[begin : begin + schedule.examples_per_step]
            result = passes.losses(batch, weights)
            result.check_finite(batch, f"after {counted(len(step_losses), 'step')}")
            loss, correct = result.losses.mean(), bool(result.correct.all())
            value = float(loss.detach())
            epoch_loss, all_correct = epoch_loss + value * len(batch), all_correct and correct
            if value < schedule.stop_loss or (schedule.stop_when_correct and correct):
                continue
            for penalty in penalties:
                loss = loss + penalty(batch, weights)
            gradients = gradients_of(loss, list(weights.values()))
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            if constrain is not None:
                constrain(weights)
            step_losses.append(float(loss.detach()))
        epoch_loss /= len(order)
        # A line for each epoch over many examples shows progress; one for each step of a single edit would not.
        level = logging.INFO if len(order) > schedule.examples_per_step else logging.DEBUG
        LOG.log(
            level, "epoch %d of %d: mean loss %.4f, %d examples", epoch + 1, schedule.epochs, epoch_loss, len(order)
        )
        if epoch_loss < schedule.stop_loss or (schedule.stop_when_correct and all_correct):
            break
    return step_losses
