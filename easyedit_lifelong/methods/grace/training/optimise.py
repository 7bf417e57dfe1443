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
from easyedit_lifelong.methods.grace.training.value_pass import Lesson
from easyedit_lifelong.methods.shared.divergence import Drift
from easyedit_lifelong.models.encoding import IGNORED


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


def train_values(
    lesson: Lesson, starts: Tensor, hparams: GraceHyperParams, identities: Sequence[str], where: Sequence[str]
) -> list[Trained]:
    """Train the values of some edits against the frozen model, each for itself, in the same passes.

    An edit that has learned its target leaves, and the others go on without it.

    Args:
        lesson: the edits' prompts and targets; for each the same number of rows, one after the other: ``num_pert`` with
            ``val_train: adv``, its contexts with ``query_token: subject_last``. In rows without a target, what the
            model says is to stay (``kl_factor``).
        starts: where the values start, shape ``(edits, value_size)``.
        hparams: learning rate, steps, early stop.
        identities: see :func:`initial_value`; seed the noise of ``val_train: adv``.
        where: what to call each edit in messages.

    Raises:
        EditError: a loss or a value became NaN or infinite; the message names the edit.
    """
    copies = len(lesson.targets) // len(starts)
    noise = starts.new_zeros(len(lesson.targets), 1)
    if hparams.val_train == "adv":
        drawn = [_noise(copies, starts, f"{hparams.seed}\x00noise\x00{identity}") for identity in identities]
        noise = torch.cat(drawn)
    values = starts.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([values], lr=hparams.edit_lr)
    going, trained = list(range(len(starts))), dict[int, Trained]()
    for steps in range(hparams.n_iter + 1):
        with torch.enable_grad():
            logits = lesson.logits(values.repeat_interleave(copies, dim=0) + noise)
            losses = _losses(logits, lesson.targets, len(going))
            penalties = hparams.kl_factor * _drift(lesson, logits, len(going)) if hparams.kl_factor else 0
        told, learned = losses.tolist(), _learned(logits, lesson.targets, len(going))
        bad = next((n for n, loss in enumerate(told) if not math.isfinite(loss)), None)
        if bad is not None:
            raise EditError(
                f"{where[going[bad]]}: the loss became {told[bad]} after {steps} steps; a lower edit_lr may help"
            )
        stops = hparams.reg == "early_stop"
        done = [
            steps == hparams.n_iter or (stops and knows and loss <= hparams.stop_loss)
            for loss, knows in zip(told, learned, strict=True)
        ]
        for n, edit in enumerate(going):
            if done[n]:
                trained[edit] = Trained(values.detach()[n].clone(), steps, told[n], learned[n])
        if all(done):
            break
        (values.grad,) = torch.autograd.grad((losses + penalties).sum(), values)
        if any(done):
            stay = torch.tensor([n for n, out in enumerate(done) if not out], device=values.device)
            rows = (stay.unsqueeze(1) * copies + torch.arange(copies, device=stay.device)).flatten()
            lesson, noise, going = lesson.taking(rows), noise[rows], [going[int(n)] for n in stay]
            values, optimizer = _fewer(values, optimizer, stay)
        try:
            optimizer.step()
        except RuntimeError as error:
            raise EditError(
                f"{where[going[0]]}: the optimizer failed after {steps} steps: {error}; a lower edit_lr may help"
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


def _drift(lesson: Lesson, logits: Tensor, edits: int) -> Tensor:
    """Return how far what is said in each edit's rows without a target has moved: KL(now ‖ before), ``(edits,)``."""
    kept = (lesson.targets == IGNORED).all(dim=1)
    before = lesson.unedited[kept, 0].float().log_softmax(dim=-1)
    drift = Drift.apply(logits[kept, 0].float(), before)
    owner = torch.arange(len(kept), device=kept.device).div(len(kept) // edits, rounding_mode="floor")[kept]
    return logits.new_zeros(edits, dtype=torch.float32).index_add(0, owner, drift)


def _learned(logits: Tensor, targets: Tensor, edits: int) -> list[bool]:
    right = (logits.argmax(dim=-1) == targets) | (targets == IGNORED)
    return right.view(edits, -1).all(dim=1).tolist()


def _fewer(values: Tensor, optimizer: torch.optim.Adam, stay: Tensor) -> tuple[Tensor, torch.optim.Adam]:
    """Return the values that are still trained, with their gradient, and an optimizer that knows them as before."""
    kept = values.detach()[stay].clone().requires_grad_(True)
    assert values.grad is not None
    kept.grad = values.grad[stay]
    slimmer = torch.optim.Adam([kept], lr=optimizer.param_groups[0]["lr"])
    state = optimizer.state.get(values, {})
    slimmer.state[kept] = {name: one[stay] if one.dim() else one for name, one in state.items()}
    return kept, slimmer


def _noise(copies: int, starts: Tensor, identity: str) -> Tensor:
    """Standard normal noise for every copy but the first, shape ``(copies, value_size)``."""
    generator = torch.Generator().manual_seed(zlib.crc32(identity.encode()))
    noise = torch.randn(copies, starts.shape[1], generator=generator)
    noise[0] = 0
    return noise.to(starts.device)
