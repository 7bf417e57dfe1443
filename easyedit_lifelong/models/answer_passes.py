"""Teacher-forced passes over prompts with answers: losses of the answer tokens, and gradients of modules' outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.capture import outputs_with_gradients, recording_inputs
from easyedit_lifelong.models.encoding import EncodedPair, group_by_length, pad_rows
from easyedit_lifelong.models.model_modes import frozen
from easyedit_lifelong.models.partial_pass import head_at_positions
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.row_axis import with_row_axis
from easyedit_lifelong.models.runner import Runner

_MAX_PADDING = 256
"""Largest number of padding tokens in a pass."""


@dataclass(frozen=True)
class AnswerLoss:
    """The teacher-forced prediction of one answer.

    Attributes:
        loss: the mean cross-entropy of the answer tokens, in nats.
        correct: whether the most likely token was the right one at every answer token.
    """

    loss: float
    correct: bool


@dataclass(frozen=True)
class OutputGradients:
    """Inputs and output gradients of one module at some tokens.

    Attributes:
        inputs: shape ``(tokens, inputs)``.
        gradients: the gradient of a loss with respect to the module's output, shape ``(tokens, outputs)``.
    """

    inputs: Tensor
    gradients: Tensor


class AnswerPasses:
    """Runs a causal language model on prompts with their answers.

    The results of one pair depend neither on the other pairs nor on padding, up to rounding.

    Args:
        runner: runs the model.
        pairs: prompts with their answers.
        rows_per_pass: largest number of pairs in one pass; it bounds the memory.
    """

    def __init__(self, runner: Runner, pairs: Sequence[EncodedPair], rows_per_pass: int) -> None:
        self._runner = runner
        groups = group_by_length([pair.tokens for pair in pairs], _MAX_PADDING, rows_per_pass)
        self._groups = [_Group(runner, [pairs[index] for index in group]) for group in groups]
        order = [index for group in groups for index in group]
        self._place_of = sorted(range(len(order)), key=order.__getitem__)
        """For each pair, in order, its place among the rows of all groups."""

    @torch.no_grad()
    def losses(self) -> list[AnswerLoss]:
        """Return the prediction of every answer, in the order of the pairs."""
        return self._in_order([loss for group in self._groups for loss in group.losses(group.logits())])

    def gradients(self, modules: Mapping[str, nn.Module]) -> tuple[dict[str, OutputGradients], list[AnswerLoss]]:
        """Return the inputs and output gradients of modules, and the predictions, in the order of the pairs.

        Inputs and gradients are those at the positions that predict answer tokens. The loss is the cross-entropy,
        summed over the answer tokens.

        No gradient of a parameter is computed. The backward pass ends at the first of the modules.

        Args:
            modules: the modules by name.

        Raises:
            ModelError: a module does not get one vector for every token, or the answers do not depend on it.
        """
        inputs: dict[str, list[Tensor]] = {name: [] for name in modules}
        gradients: dict[str, list[Tensor]] = {name: [] for name in modules}
        losses: list[AnswerLoss] = []
        with frozen(self._runner.model), torch.enable_grad():
            for group in self._groups:
                recorded, logits = group.gradients(modules)
                for name, part in recorded.items():
                    inputs[name] += group.by_row(part.inputs)
                    gradients[name] += group.by_row(part.gradients)
                losses += group.losses(logits)
        of_module = {
            name: OutputGradients(torch.cat(self._in_order(inputs[name])), torch.cat(self._in_order(gradients[name])))
            for name in modules
        }
        return of_module, self._in_order(losses)

    def _in_order(self, rows: list[Any]) -> list[Any]:
        """Return the results of rows in the order of the pairs."""
        return [rows[place] for place in self._place_of]


class _Group:
    """Pairs that run in one pass, padded on the right.

    Args:
        runner: runs the model.
        pairs: the pairs.
    """

    def __init__(self, runner: Runner, pairs: Sequence[EncodedPair]) -> None:
        self._runner = runner
        # The last answer token predicts nothing, so the model need not read it.
        self._ids, self._mask = pad_rows([pair.tokens[:-1] for pair in pairs], runner.pad, "right", runner.device)
        self._prompt_lengths = [len(pair.prompt) for pair in pairs]
        self._counts = [len(pair.target) for pair in pairs]
        # The token at a position predicts the next one, so the answer is predicted from the prompt's last token on.
        positions = [
            (row, column)
            for row, pair in enumerate(pairs)
            for column in range(len(pair.prompt) - 1, len(pair.tokens) - 1)
        ]
        self._rows, self._columns = torch.tensor(positions).unbind(dim=1)
        self._targets = torch.tensor([token for pair in pairs for token in pair.target])

    def logits(self) -> Tensor:
        """Return the logits that predict the answer tokens, shape ``(answer tokens, vocabulary)``, in float32 or wider.

        The tokens of one row after the other.
        """
        anatomy = self._runner.anatomy
        head = None if anatomy is None else anatomy.head
        context = contextlib.nullcontext() if head is None else head_at_positions(head, self._rows, self._columns)
        with context:
            logits = self._runner.call(self._ids, self._mask, self._prompt_lengths)
        logits = self._at_answer_tokens(logits) if head is None else logits[0]
        return at_least_float32(logits)

    def losses(self, logits: Tensor) -> list[AnswerLoss]:
        """Return the prediction of each pair's answer, from :meth:`logits`."""
        logits = logits.detach()
        targets = self._targets.to(logits.device)
        losses = F.cross_entropy(logits, targets, reduction="none")
        correct = logits.argmax(dim=-1) == targets
        rows = zip(self.by_row(losses), self.by_row(correct), strict=True)
        return [AnswerLoss(float(loss.mean()), bool(right.all())) for loss, right in rows]

    def gradients(self, modules: Mapping[str, nn.Module]) -> tuple[dict[str, OutputGradients], Tensor]:
        """Return the inputs and output gradients of modules, and the logits; see :meth:`AnswerPasses.gradients`."""
        inputs: dict[str, Any] = {}
        outputs: dict[str, Tensor] = {}
        with recording_inputs(modules, inputs.__setitem__), outputs_with_gradients(modules, outputs):
            logits = self.logits()
        for name in modules:
            values = with_row_axis(inputs.get(name), len(self._ids))
            if not isinstance(values, Tensor) or values.dim() != 3 or values.shape[:2] != self._ids.shape:
                raise ModelError(f"{name} gets no vector for every token; name another layer")
            inputs[name] = values
        loss = F.cross_entropy(logits, self._targets.to(logits.device), reduction="sum")
        gradients: Sequence[Tensor | None] = [None] * len(modules)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [outputs[name] for name in modules], allow_unused=True)
        result: dict[str, OutputGradients] = {}
        for name, gradient in zip(modules, gradients, strict=True):
            if gradient is None:
                raise ModelError(f"{name}: the answers do not depend on its output; name another layer")
            result[name] = OutputGradients(
                self._at_answer_tokens(inputs[name].detach()),
                self._at_answer_tokens(with_row_axis(gradient, len(self._ids))),
            )
        return result, logits

    def by_row(self, tokens: Tensor) -> list[Tensor]:
        """Return what belongs to each pair: ``(answer tokens, …)`` to one tensor for each pair."""
        return list(tokens.split(self._counts))

    def _at_answer_tokens(self, values: Tensor) -> Tensor:
        """Return the values that predict answer tokens: ``(rows, tokens, width)`` to ``(answer tokens, width)``."""
        return values[self._rows.to(values.device), self._columns.to(values.device)]
