"""The passes that keys, residuals and z-scores are taken in: only the edited blocks, again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.coachhook.facts import Fact
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import ending_after, hidden_of, recording_output, standing_in, with_hidden


class EditingPasses:
    """Runs a batch's prompts through the edited blocks. What lies below them is computed once.

    Args:
        runner: of the model.
        facts: the batch.
        first: the first edited block.
        last: the last edited block.
    """

    def __init__(self, runner: Runner, facts: Sequence[Fact], first: nn.Module, last: nn.Module) -> None:
        self._runner, self._last = runner, last
        owned = [(owner, row) for owner, fact in enumerate(facts) for row in (*fact.contexts, fact.plain)]
        self._rows = [row for _, row in owned]
        ids, mask = pad_rows([row.prompt for row in self._rows], runner.pad, "right", runner.device)
        self._ids, self._mask = ids, mask
        self._lengths = torch.tensor([len(row.prompt) for row in self._rows])
        # Key of a fact: the weighted mean of its rows' keys, as one matrix product. Its bare prompt comes last.
        self._mix = torch.zeros(len(facts), len(owned), dtype=torch.float64)
        for column, (owner, row) in enumerate(owned):
            self._mix[owner, column] = row.weight
        self._plain = torch.tensor([len(fact.contexts) + 1 for fact in facts], device=runner.device).cumsum(0) - 1
        self._lookups = torch.tensor([row.lookup for row in self._rows], device=runner.device)
        self._below: list[nn.Module] = []
        self._boundary: Any = None
        self._record_below(first)

    def keys_and_outputs(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Return a projection's keys, and what the last edited block returns, where facts are looked up.

        Args:
            module: an edited projection.

        Returns:
            Keys, averaged over contexts, shape ``(facts, inputs)``, and outputs for the bare prompts,
            shape ``(facts, width)``; in float64.
        """
        with self._inputs_of([module]) as inputs, recording_output(self._last, self._keep_output):
            self._run()
        rows = torch.arange(len(self._rows), device=self._ids.device)
        keys = inputs[0][rows.to(inputs[0].device), self._lookups.to(inputs[0].device)].double()
        outputs = self._output[self._plain.to(self._output.device), self._lookups[self._plain].to(self._output.device)]
        return self._mix.to(keys.device) @ keys, outputs.double()

    def inputs_for_prompts(self, modules: Sequence[nn.Module]) -> tuple[list[Tensor], Tensor]:
        """Return projections' inputs at every token of the bare prompts.

        Args:
            modules: edited projections.

        Returns:
            Of each, shape ``(facts, tokens, inputs)``; and which tokens are real, ``(facts, tokens)``.
        """
        with self._inputs_of(modules) as inputs:
            self._run(self._plain)
        return inputs, self._mask[self._plain].bool()

    def _run(self, rows: Tensor | None = None) -> None:
        rows = torch.arange(len(self._rows), device=self._ids.device) if rows is None else rows
        boundary = self._boundary
        if self._below:
            hidden = hidden_of(boundary)
            boundary = with_hidden(boundary, hidden[rows.to(hidden.device)])
        with torch.no_grad(), standing_in(self._below, boundary), ending_after(self._last):
            self._runner.call(self._ids[rows], self._mask[rows], self._lengths[rows.cpu()])

    def _record_below(self, first: nn.Module) -> None:
        anatomy = self._runner.anatomy
        blocks: list[nn.Module] = list(anatomy.blocks) if anatomy is not None else []
        below = blocks[: blocks.index(first)] if first in blocks else []
        if not below:
            return

        def keep(output: Any) -> None:
            self._boundary = output

        with torch.no_grad(), recording_output(below[-1], keep), ending_after(below[-1]):
            self._runner.call(self._ids, self._mask, self._lengths)
        self._below = below

    def _keep_output(self, output: Any) -> None:
        self._output = hidden_of(output)

    @contextlib.contextmanager
    def _inputs_of(self, modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
        inputs: list[Tensor] = [torch.empty(0)] * len(modules)

        def recorder(number: int) -> Any:
            def record(_: nn.Module, args: tuple[Any, ...]) -> None:
                inputs[number] = args[0].detach()

            return record

        handles = [module.register_forward_pre_hook(recorder(i)) for i, module in enumerate(modules)]
        try:
            yield inputs
        finally:
            for handle in handles:
                handle.remove()
