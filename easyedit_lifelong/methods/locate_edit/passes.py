"""The passes that compute keys, residuals and z-scores; no block is run again for what cannot have changed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.locate_edit.facts import Fact, Row
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import ending_after, recording_inputs, recording_output
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.packing import computing_only, token_wise
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import hidden_of, standing_in

_PADDING = 256
"""Largest number of columns of padding in a group of rows."""


class EditingPasses:
    """Runs a batch's prompts through the edited blocks.

    Layers are updated from the first to the last, so nothing below a layer's block changes once the layer is updated:
    rows continue from there. Contexts end at the layer's key; only bare prompts are run up to the last edited block.

    Args:
        runner: of the model.
        facts: the batch.
        edited: the edited blocks, from the first to the last.
    """

    def __init__(self, runner: Runner, facts: Sequence[Fact], edited: Sequence[nn.Module]) -> None:
        anatomy = runner.anatomy
        self._blocks: list[nn.Module] = list(anatomy.blocks) if anatomy is not None else []
        self._last = edited[-1]
        plain = [fact.plain for fact in facts]
        # A context that is the bare prompt itself is its row.
        owned = [
            (owner, row)
            for owner, fact in enumerate(facts)
            for row in fact.contexts
            if (row.prompt, row.lookup) != (fact.plain.prompt, fact.plain.lookup)
        ]
        owned.sort(key=lambda item: len(item[1].prompt))
        # Key of a fact: the weighted mean of its rows' keys, as one matrix product. Bare prompts come last.
        self._mix = torch.zeros(len(facts), len(owned) + len(facts), dtype=torch.float64)
        for column, (owner, row) in enumerate(owned):
            self._mix[owner, column] = row.weight
        for owner, fact in enumerate(facts):
            self._mix[owner, len(owned) + owner] = sum(row.weight for row in fact.contexts) - self._mix[owner].sum()
        groups = grouped_by_length([row.prompt for _, row in owned], _PADDING)
        self._contexts = [_Rows(runner, [owned[number][1] for number in group]) for group in groups]
        self._plain, self._prompts = (_Rows(runner, plain) for _ in range(2))

    def keys_and_outputs(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Return a projection's keys, and what the last edited block returns, where facts are looked up.

        Args:
            module: an edited projection; called for each of them, from the first layer to the last.

        Returns:
            Keys, averaged over contexts, shape ``(facts, inputs)``, and outputs for the bare prompts,
            shape ``(facts, width)``; in float64.
        """
        settled = self._below(module)
        keys: list[Tensor] = []
        outputs: list[Any] = []
        inputs: dict[str, Tensor] = {}
        with recording_inputs({"keys": module}, inputs.__setitem__):
            parts = self._token_wise()
            for group in self._contexts:
                group.run(parts, until=module, settled=settled)
                keys.append(group.at_lookups(inputs["keys"]))
            with recording_output(self._last, outputs.append):
                self._plain.run(parts, until=self._last, settled=settled)
            keys.append(self._plain.at_lookups(inputs["keys"]))
        of_contexts = torch.cat(keys).double()
        return self._mix.to(of_contexts.device) @ of_contexts, self._plain.at_lookups(hidden_of(outputs[0])).double()

    def inputs_for_prompts(self, modules: Sequence[nn.Module]) -> tuple[list[Tensor], Tensor]:
        """Return projections' inputs at every token of the bare prompts.

        Args:
            modules: edited projections.

        Returns:
            Of each, shape ``(facts, tokens, inputs)``; and which tokens are real, ``(facts, tokens)``.
        """
        inputs: dict[str, Tensor] = {}
        numbered = {str(number): module for number, module in enumerate(modules)}
        with recording_inputs(numbered, inputs.__setitem__):
            self._prompts.run(self._token_wise(), until=self._last)
        return [inputs[number] for number in numbered], self._prompts.mask.bool()

    def _token_wise(self) -> list[nn.Module]:
        """Return the modules that compute each token by itself. Those with hooks are left out, so record first."""
        return [part for block in self._blocks for part in token_wise(block)]

    def _below(self, module: nn.Module) -> list[nn.Module]:
        """Return the blocks below the one that holds a module; none if it is in no known block."""
        for number, block in enumerate(self._blocks):
            if any(part is module for part in block.modules()):
                return self._blocks[:number]
        return []


class _Rows:
    """Rows that are run in one batch, and the block up to which they have been run.

    Args:
        runner: of the model.
        rows: the rows.
    """

    def __init__(self, runner: Runner, rows: Sequence[Row]) -> None:
        self._runner = runner
        self._ids, self.mask = pad_rows([row.prompt for row in rows], runner.pad, "right", runner.device)
        self._lengths = torch.tensor([len(row.prompt) for row in rows])
        self._lookups = torch.tensor([row.lookup for row in rows])
        self._settled: Sequence[nn.Module] = []
        self._boundary: Any = None

    @torch.no_grad()
    def run(self, parts: Sequence[nn.Module], *, until: nn.Module, settled: Sequence[nn.Module] = ()) -> None:
        """Run the rows until a module has returned.

        Args:
            parts: what computes no padding.
            until: the module.
            settled: the lowest blocks, which do not change any more: they are not run again.
        """
        reached: list[Any] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(standing_in(self._settled, self._boundary))
            stack.enter_context(recording_output(settled[-1] if settled else None, reached.append))
            stack.enter_context(computing_only(parts, self.mask.bool()))
            stack.enter_context(grouped_queries())
            stack.enter_context(ending_after(until))
            self._runner.call(self._ids, self.mask, self._lengths)
        if settled:
            self._settled, self._boundary = settled, reached[0]

    def at_lookups(self, values: Tensor) -> Tensor:
        """Return the values ``(rows, tokens, width)`` at the tokens where facts are looked up: ``(rows, width)``."""
        rows = torch.arange(len(self._lookups), device=values.device)
        return values[rows, self._lookups.to(values.device)]


def grouped_by_length(rows: Sequence[Sequence[int]], padding: int) -> list[list[int]]:
    """Return the numbers of rows, from the shortest to the longest, in groups with little padding.

    Args:
        rows: the rows.
        padding: columns of padding in a group, at most.
    """
    groups: list[list[int]] = []
    tokens = 0
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
        if not groups or (len(groups[-1]) + 1) * len(rows[number]) - tokens - len(rows[number]) > padding:
            groups.append([])
            tokens = 0
        groups[-1].append(number)
        tokens += len(rows[number])
    return groups
