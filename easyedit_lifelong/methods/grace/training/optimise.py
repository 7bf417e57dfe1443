"""Train GRACE values with the fine-tuning loss (arXiv 2211.11031, section 3.2)."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass, rows_of_edits
from easyedit_lifelong.methods.shared.divergence import KLDivergence
from easyedit_lifelong.methods.shared.quasi_newton import lowest
from easyedit_lifelong.methods.shared.vector_optimisers import make_optimiser
from easyedit_lifelong.models.encoding import IGNORED
from easyedit_lifelong.models.gradients import gradients_of
from easyedit_lifelong.plurals import counted


@dataclass(frozen=True)
class TrainedValue:
    """A trained value.

    Attributes:
        value: shape ``(value_size,)``, float32.
        steps: number of optimisation steps.
        loss: the last loss, in nats per target token.
        learned: whether the right token was the most likely one at every target token after the last step.
        objective: the loss and the weighted drift.
    """

    value: Tensor
    steps: int
    loss: float
    learned: bool
    objective: float


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
    value_pass: ValuePass,
    starts: Tensor,
    hparams: GraceHyperParams,
    identities: Sequence[str],
    where: Sequence[str],
    steps_before: Sequence[int] | None = None,
) -> list[TrainedValue]:
    """Train the values of a batch of edits, independently of each other, with the model frozen.

    An edit that has learned its target leaves the batch; the training of the others continues. An optimiser may try
    several candidates of each value in one pass.

    Args:
        value_pass: the pass over the edits' prompts and targets. Each edit has the same number of consecutive rows:
            ``num_pert`` copies with ``val_train: adv``, its training texts with ``query_token: subject_last``. For rows
            without a target, the loss is the drift of the next token, weighted by ``kl_factor``.
        starts: the initial values, shape ``(edits, value_size)``.
        hparams: optimiser, learning rate, steps, early stop.
        identities: see :func:`initial_value`; they also seed the noise of ``val_train: adv``.
        where: name of each edit in messages.
        steps_before: number of steps that each edit has made before; they count. None: no steps.

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
    # A pass with two rows of an edit takes hardly longer than one with a single row.
    multiples = (1.0, 2.0) if rows_per_edit == 1 and value_pass.has_independent_rows else (1.0,)
    optimiser = make_optimiser(hparams.optimizer, starts, hparams.edit_lr, multiples=multiples)
    before = steps_before or [0] * len(starts)
    active = list(range(len(starts)))  # the edits that are still trained
    trained: dict[int, TrainedValue] = {}  # of all edits; of those that are still trained, the outcome so far
    step_pass, step_noise, step_rows = value_pass, noise, list(range(len(noise)))
    for step in itertools.count():
        values = optimiser.candidates.detach().clone().requires_grad_(True)
        rows = rows_of_edits([edit for edit in active for _ in values[0]], rows_per_edit)
        if rows != step_rows:
            selected = torch.tensor(rows, device=noise.device)
            step_pass, step_noise, step_rows = value_pass.select_rows(selected), noise[selected], rows
        with torch.enable_grad():
            logits = step_pass.logits(values.flatten(0, 1).repeat_interleave(rows_per_edit, dim=0) + step_noise)
            outcomes = _outcomes(step_pass, logits, hparams.kl_factor, values.shape[:2])
        remaining, chosen = list[int](), list[int]()  # indices into `active`, and their best candidates
        for n, edit in enumerate(active):
            steps = before[edit] + step
            number, stops = outcomes.best(n, hparams)
            outcome = outcomes.trained_value(n, number, values[n, number].detach().clone(), steps)
            previous = trained.get(edit) if optimiser.returns_to_best else None
            if previous is None:
                require_finite_loss(outcome, where[edit])
            if previous is not None and not stops and not outcome.objective < previous.objective:
                outcome = replace(previous, steps=steps)
            trained[edit] = outcome
            if not stops and steps < hparams.n_iter:
                remaining.append(n)
                chosen.append(number)
        if not remaining:
            break
        (gradients,) = gradients_of(outcomes.differentiable[remaining, chosen].sum(), [values])
        if len(remaining) < len(active):
            optimiser.keep(remaining)
            active = [active[n] for n in remaining]
        try:
            optimiser.step([outcomes.objectives[n] for n in remaining], gradients[remaining, chosen])
        except RuntimeError as error:
            raise EditError(
                f"{where[active[0]]}: the optimizer failed after {counted(before[active[0]] + step, 'step')}: {error}; "
                "a lower edit_lr may help"
            ) from error
    for edit, result in trained.items():
        if not torch.isfinite(result.value).all():
            raise EditError(
                f"{where[edit]}: the value became NaN or infinite after {counted(result.steps, 'step')}; "
                "a lower edit_lr may help"
            )
    return [trained[edit] for edit in range(len(starts))]


def require_finite_loss(outcome: TrainedValue, where: str) -> None:
    """Raise an error that names the edit if its loss is NaN or infinite.

    Raises:
        EditError: it is.
    """
    if not math.isfinite(outcome.loss):
        raise EditError(
            f"{where}: the loss became {outcome.loss} after {counted(outcome.steps, 'step')}; a lower edit_lr may help"
        )


def evaluate(value_pass: ValuePass, values: Tensor, kl_factor: float) -> tuple[Outcomes, Tensor]:
    """Return the outcomes of one value for each edit, and the logits of the pass, ``(rows, targets, classes)``.

    Args:
        value_pass: the pass over the edits' prompts and targets; see :func:`train_values`.
        values: shape ``(edits, value_size)``.
        kl_factor: weight of the drift.
    """
    with torch.no_grad():
        logits = value_pass.logits(values.repeat_interleave(len(value_pass.targets) // len(values), dim=0))
        return _outcomes(value_pass, logits, kl_factor, torch.Size([len(values), 1])), logits


@dataclass(frozen=True)
class Outcomes:
    """What a pass says about the candidates of several edits, by edit, then by candidate.

    Attributes:
        losses: the mean cross-entropy over all target tokens of a candidate's rows.
        objectives: what is minimised: the loss and the weighted drift.
        learned: whether the most likely token is the right one at every target token of a candidate's rows.
        differentiable: the objectives, as a differentiable tensor of shape ``(edits, candidates)``.
    """

    losses: list[list[float]]
    objectives: list[list[float]]
    learned: list[list[bool]]
    differentiable: Tensor

    def best(self, edit: int, hparams: GraceHyperParams) -> tuple[int, bool]:
        """Return the first candidate of an edit with which its training stops, else its best one, and which it is."""
        if hparams.reg == "early_stop":
            for number, (loss, learned) in enumerate(zip(self.losses[edit], self.learned[edit], strict=True)):
                if learned and loss <= hparams.stop_loss:
                    return number, True
        return lowest(self.objectives[edit]), False

    def trained_value(self, edit: int, number: int, value: Tensor, steps: int) -> TrainedValue:
        """Return a candidate's value, found in that many steps, with its outcome."""
        return TrainedValue(
            value, steps, self.losses[edit][number], self.learned[edit][number], self.objectives[edit][number]
        )


def _outcomes(step_pass: ValuePass, logits: Tensor, kl_factor: float, shape: torch.Size) -> Outcomes:
    """Return the outcomes of a pass.

    Args:
        step_pass: the pass; the rows of a candidate are consecutive.
        logits: its logits, ``(rows, targets, classes)``.
        kl_factor: weight of the drift.
        shape: number of edits, number of candidates of each.
    """
    count = shape.numel()
    losses, learned = _losses(logits, step_pass.targets, count), _learned(logits, step_pass.targets, count)
    objectives = losses + kl_factor * _drift(step_pass, logits, count) if kl_factor else losses
    losses, objectives, learned = losses.view(shape), objectives.view(shape), learned.view(shape)
    return Outcomes(losses.tolist(), objectives.tolist(), learned.tolist(), objectives)


def _losses(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """Return each candidate's loss, the mean cross-entropy over all target tokens of its rows, ``(count,)``."""
    per_token = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return per_token.view(count, -1).sum(dim=1) / (targets != IGNORED).view(count, -1).sum(dim=1)


def _drift(value_pass: ValuePass, logits: Tensor, count: int) -> Tensor:
    """Return KL(edited ‖ unedited) of the next token, summed over a candidate's rows without a target, ``(count,)``."""
    no_target = (value_pass.targets == IGNORED).all(dim=1)
    unedited = value_pass.unedited[no_target, 0].float().log_softmax(dim=-1)
    drift = KLDivergence.apply(logits[no_target, 0].float(), unedited)
    rows = torch.arange(len(no_target), device=no_target.device)
    candidate = rows.div(len(no_target) // count, rounding_mode="floor")
    return logits.new_zeros(count, dtype=torch.float32).index_add(0, candidate[no_target], drift)


def _learned(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """Return whether the most likely token is right at every target token of a candidate's rows, bool, ``(count,)``."""
    correct = (logits.argmax(dim=-1) == targets) | (targets == IGNORED)
    return correct.view(count, -1).all(dim=1)


def _noise(copies: int, starts: Tensor, seed: str) -> Tensor:
    """Return standard normal noise for every copy but the first, which has none, shape ``(copies, value_size)``."""
    noise = torch.randn(copies, starts.shape[1], generator=_generator(seed))
    noise[0] = 0
    return noise.to(starts.device)


def _generator(seed: str) -> torch.Generator:
    """Return a random generator seeded by a text."""
    return torch.Generator().manual_seed(zlib.crc32(seed.encode()))
