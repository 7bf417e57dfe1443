"""The forward passes over training examples. They run the blocks below the first edited one once per example."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.edited_layers import weight_of
from easyedit_lifelong.models.capture import ending_after, recording_output
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.partial_pass import fixed_output, head_at_positions, hidden_of, with_hidden
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.wrappers import inner_projection

Weights = Mapping[str, Tensor]
"""The trained weights by path of the projection, in float32 or wider, transposed as the projection stores them."""


@dataclass(frozen=True)
class ExampleLosses:
    """The losses of some examples.

    Attributes:
        losses: mean cross-entropy over the target tokens of each example, in nats, shape ``(examples,)``.
        correct: whether the model predicted every target token of an example, shape ``(examples,)``.
    """

    losses: Tensor
    correct: Tensor

    def check_finite(self, examples: Sequence[Example], when: str) -> None:
        """Check the losses.

        Raises:
            EditError: a loss is NaN or infinite. The message names the first such example.
        """
        bad = (~torch.isfinite(self.losses)).nonzero().flatten().tolist()
        if bad:
            loss = self.losses[bad[0]].item()
            raise EditError(f"{examples[bad[0]].where}: the loss became {loss} {when}; a smaller lr may help")


class ExamplePasses:
    """Runs examples with given weights of the edited projections, without changing the model.

    All rows are padded on the right, where causal attention never reads. The output of the blocks below the first
    edited one is computed at the first use of an example and kept: one vector for every token. The
    output head computes only the positions that predict a token.

    Args:
        runner: runs the model, which must be in evaluation mode.
        modules: the edited projections by path.
        rows_at_once: largest number of examples for which the output of the constant blocks is computed in one pass.
            With 1, it does not depend on the other examples, not even in its rounding.
        max_kept_bytes: how much memory these outputs may take; further ones are computed at every use. None: no limit.
    """

    def __init__(
        self,
        runner: Runner,
        modules: Mapping[str, nn.Module],
        rows_at_once: int = 32,
        max_kept_bytes: int | None = None,
    ) -> None:
        self._runner, self._modules = runner, modules
        self._rows_at_once, self._max_kept_bytes, self._kept_bytes = rows_at_once, max_kept_bytes, 0
        anatomy = runner.anatomy
        self._head = None if anatomy is None else anatomy.head
        numbers = [None if anatomy is None else anatomy.block_of(path) for path in modules]
        first = min((0 if number is None else number for number in numbers), default=0)
        self._constant_blocks: list[nn.Module] = [] if anatomy is None else list(anatomy.blocks)[:first]
        self._constant_outputs: dict[Example, Tensor] = {}
        self._output_form: Any = None  # an output of the last constant block, which may be a tuple

    def losses(self, examples: Sequence[Example], weights: Weights | None = None) -> ExampleLosses:
        """Return the losses of examples; differentiable in the weights.

        Args:
            examples: the examples.
            weights: the weights; None: those of the model.
        """
        logits = self.target_logits(examples, weights)
        device = logits.device
        rows = [row for row, example in enumerate(examples) for _ in example.target]
        targets = torch.tensor([token for example in examples for token in example.target], device=device)
        row_of = torch.tensor(rows, device=device)
        counts = torch.tensor([len(example.target) for example in examples], device=device)
        nll = nn.functional.cross_entropy(logits, targets, reduction="none")
        losses = nll.new_zeros(len(examples)).index_add(0, row_of, nll / counts[row_of])
        missed = torch.zeros_like(counts).index_add(0, row_of, (logits.detach().argmax(dim=1) != targets).long())
        return ExampleLosses(losses, missed == 0)

    @torch.no_grad()
    def losses_of_edited_model(self, examples: Sequence[Example], examples_per_pass: int) -> ExampleLosses:
        """Return the losses of examples after an update of the model.

        Raises:
            EditError: a loss is not finite.
        """
        size = examples_per_pass
        parts = [self.losses(examples[begin : begin + size]) for begin in range(0, len(examples), size)]
        result = ExampleLosses(torch.cat([part.losses for part in parts]), torch.cat([part.correct for part in parts]))
        result.check_finite(examples, "after the update")
        return result

    def prompt_logits(self, examples: Sequence[Example], weights: Weights | None = None) -> Tensor:
        """Return the logits within the prompts, at all tokens but the last one, shape ``(positions, vocabulary)``."""
        rows = [row for row, example in enumerate(examples) for _ in example.prompt[1:]]
        columns = [column for example in examples for column in range(len(example.prompt) - 1)]
        return self._logits(examples, rows, columns, weights)

    def target_logits(self, examples: Sequence[Example], weights: Weights | None = None) -> Tensor:
        """Return the logits that predict the target tokens, shape ``(target tokens, vocabulary)``."""
        rows = [row for row, example in enumerate(examples) for _ in example.target]
        columns = [len(example.prompt) - 1 + i for example in examples for i in range(len(example.target))]
        return self._logits(examples, rows, columns, weights)

    def all_logits(self, examples: Sequence[Example], weights: Weights | None = None) -> Tensor:
        """Return the logits at all tokens of prompts and targets, shape ``(tokens, vocabulary)``."""
        rows = [row for row, example in enumerate(examples) for _ in example.tokens]
        columns = [column for example in examples for column in range(len(example.tokens))]
        return self._logits(examples, rows, columns, weights)

    def _logits(
        self, examples: Sequence[Example], rows: Sequence[int], columns: Sequence[int], weights: Weights | None
    ) -> Tensor:
        """Return the logits at some positions, in float32 or wider, shape ``(positions, vocabulary)``."""
        ids, mask = pad_rows([example.tokens for example in examples], self._runner.pad, "right", self._runner.device)
        row_index, column_index = torch.tensor([rows, columns], dtype=torch.long)
        with contextlib.ExitStack() as stack:
            if self._constant_blocks:
                stack.enter_context(fixed_output(self._constant_blocks, self._constant_output(examples)))
            if self._head is not None:
                stack.enter_context(head_at_positions(self._head, row_index, column_index))
            if weights is not None:
                rounded = {
                    inner_projection(module): weights[path].to(weight_of(module).dtype)
                    for path, module in self._modules.items()
                }
                stack.enter_context(overridden("weight", rounded))
            logits = self._runner.call(ids, mask, [len(example.prompt) for example in examples])
        logits = logits[row_index, column_index] if self._head is None else logits[0]
        return at_least_float32(logits)

    def _constant_output(self, examples: Sequence[Example]) -> Any:
        """Return the output of the last constant block for some examples, padded on the right."""
        distinct, kept = list(dict.fromkeys(examples)), self._constant_outputs
        outputs = {example: kept[example] for example in distinct if example in kept}
        missing = [example for example in distinct if example not in outputs]
        missing.sort(key=lambda example: len(example.tokens))
        for begin in range(0, len(missing), self._rows_at_once):
            computed = self._run_constant_blocks(missing[begin : begin + self._rows_at_once])
            outputs |= computed
            self._keep(computed)
        hidden = pad_sequence([outputs[example] for example in examples], batch_first=True)
        return with_hidden(self._output_form, hidden)

    def _keep(self, outputs: Mapping[Example, Tensor]) -> None:
        """Keep outputs of the last constant block for later, as far as there is room."""
        for example, output in outputs.items():
            size = output.numel() * output.element_size()
            if self._max_kept_bytes is None or self._kept_bytes + size <= self._max_kept_bytes:
                self._constant_outputs[example] = output
                self._kept_bytes += size

    @torch.no_grad()
    def _run_constant_blocks(self, examples: Sequence[Example]) -> dict[Example, Tensor]:
        """Return the output of the last constant block for each of some examples, shape ``(tokens, width)``."""
        ids, mask = pad_rows([example.tokens for example in examples], self._runner.pad, "right", self._runner.device)
        last, outputs = self._constant_blocks[-1], list[Any]()
        with recording_output(last, outputs.append), ending_after(last):
            self._runner.call(ids, mask, [len(example.prompt) for example in examples])
        self._output_form = outputs[0]
        rows = zip(examples, hidden_of(outputs[0]), strict=True)
        return {example: states[: len(example.tokens)].clone() for example, states in rows}
