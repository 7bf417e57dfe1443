"""The forward passes over the prompts of a batch: they give keys, hidden states and inputs of projections."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.locate_edit.facts import Fact, Row
from easyedit_lifelong.models.attention import grouped_queries
from easyedit_lifelong.models.capture import ending_after, recording_inputs, recording_output
from easyedit_lifelong.models.encoding import group_by_length, pad_rows
from easyedit_lifelong.models.output_norm import find_output_map
from easyedit_lifelong.models.packing import computing_only, token_wise_modules
from easyedit_lifelong.models.partial_pass import fixed_output, hidden_of
from easyedit_lifelong.models.row_axis import with_row_axis
from easyedit_lifelong.models.runner import Runner

_MAX_PADDING = 256
"""Largest number of padding tokens in a group of rows."""


class EditingPasses:
    """Runs the prompts of a batch through the edited blocks.

    Layers are updated from the first to the last. When a layer is updated, the blocks below it have their final
    weights. So their output is computed once and then reused. Prompts with a context are run up to the layer whose keys
    are read. Only plain prompts are run up to the last edited block.

    Args:
        runner: runs the model.
        facts: the batch.
        edited: the edited blocks, from the first to the last.
    """

    def __init__(self, runner: Runner, facts: Sequence[Fact], edited: Sequence[nn.Module]) -> None:
        anatomy = runner.anatomy
        self._blocks: list[nn.Module] = list(anatomy.blocks) if anatomy is not None else []
        self._runner = runner
        self._edited = edited
        self._last_block = edited[-1]
        context_rows = _rows_with_context(facts)
        self._row_weights = _row_weights(facts, context_rows)
        groups = group_by_length([row.prompt for _, row in context_rows], _MAX_PADDING)
        self._contexts = [_RowGroup(runner, [context_rows[index][1] for index in group]) for group in groups]
        plain = [fact.plain for fact in facts]
        self._plain = _RowGroup(runner, plain)
        # A second group of the same rows, for passes that must not reuse the output of lower blocks.
        self._plain_without_reuse = _RowGroup(runner, plain)

    def keys_and_outputs(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the keys k of the facts at a projection, and the hidden states h after the last edited block.

        Args:
            module: an edited projection. Call this for each of them, from the first layer to the last.

        Returns:
            The inputs of the projection at the lookup tokens, averaged over contexts, shape ``(facts, inputs)``, and
            the outputs of the last edited block at the lookup tokens of the plain prompts, shape ``(facts, width)``;
            both in float64.
        """
        keys, _, outputs = self._run(module, self._last_block)
        return keys, outputs

    def change_of_output(self, module: nn.Module, change: Tensor) -> Tensor:
        """Return the change of a projection's output that changes the output of its block.

        The two are equal, unless the block normalises the output of its MLP, or multiplies it by a number
        (:mod:`~easyedit_lifelong.models.output_norm`).

        Args:
            module: an edited projection.
            change: the change of the block's output at the lookup tokens of the plain prompts, ``(facts, width)``.

        Raises:
            ModelError: the block changes the output of its MLP in a way that can't be accounted for.
        """
        block = next(block for block in self._edited if any(part is module for part in block.modules()))
        output_map = find_output_map(self._runner, block, module)
        if output_map is None:
            return change
        (outputs,) = self.outputs_for_prompts([module])
        return output_map.change_before(outputs, change)

    def keys_and_plain_values(self, module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys k of the facts at a projection, and its input and output for the plain prompts.

        Args:
            module: an edited projection.

        Returns:
            The inputs of the projection at the lookup tokens, averaged over contexts, shape ``(facts, inputs)``; its
            inputs at the lookup tokens of the plain prompts, same shape; and its outputs there, shape
            ``(facts, outputs)``; all in float64.
        """
        return self._run(module, module)

    def _run(self, module: nn.Module, last: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Run all prompts; see :meth:`keys_and_plain_values`, whose last result is here the output of ``last``.

        Args:
            module: an edited projection.
            last: the module after which passes over plain prompts stop.
        """
        constant_blocks = self._blocks_below(module)
        keys: list[Tensor] = []
        outputs: list[Any] = []
        inputs: dict[str, Tensor] = {}
        with recording_inputs({"keys": module}, inputs.__setitem__):
            skip_padding = self._modules_that_skip_padding()
            for group in self._contexts:
                group.run(skip_padding, until=module, constant_blocks=constant_blocks)
                keys.append(group.at_lookup_tokens(inputs["keys"]))
            with recording_output(last, outputs.append):
                self._plain.run(skip_padding, until=last, constant_blocks=constant_blocks)
            plain_keys = self._plain.at_lookup_tokens(inputs["keys"])
        row_keys = torch.cat([*keys, plain_keys]).double()
        hidden = self._plain.at_lookup_tokens(hidden_of(outputs[0])).double()
        return self._row_weights.to(row_keys.device) @ row_keys, plain_keys.double(), hidden

    def inputs_for_prompts(self, modules: Sequence[nn.Module]) -> tuple[list[Tensor], Tensor]:
        """Return the inputs of projections at every token of the plain prompts.

        Args:
            modules: edited projections.

        Returns:
            The inputs of each projection, shape ``(facts, tokens, inputs)``, and which positions are tokens rather than
            padding, shape ``(facts, tokens)``.
        """
        inputs: dict[str, Tensor] = {}
        named_modules = {str(index): module for index, module in enumerate(modules)}
        with recording_inputs(named_modules, inputs.__setitem__):
            self._plain_without_reuse.run(self._modules_that_skip_padding(), until=self._last_block)
        mask = self._plain_without_reuse.mask.bool()
        return [with_row_axis(inputs[name], len(mask)) for name in named_modules], mask

    def outputs_for_prompts(self, modules: Sequence[nn.Module]) -> list[Tensor]:
        """Return the outputs of modules at the lookup tokens of the plain prompts.

        Args:
            modules: blocks or edited projections, up to the last edited block.

        Returns:
            The outputs of each module, shape ``(facts, outputs)``, in float64.
        """
        outputs: dict[int, Any] = {}
        with contextlib.ExitStack() as stack:
            for index, module in enumerate(modules):
                stack.enter_context(recording_output(module, functools.partial(outputs.__setitem__, index)))
            self._plain_without_reuse.run(self._modules_that_skip_padding(), until=self._last_block)
        rows = self._plain_without_reuse
        return [rows.at_lookup_tokens(hidden_of(outputs[index])).double() for index in range(len(modules))]

    def _modules_that_skip_padding(self) -> list[nn.Module]:
        """Return the modules that compute each token by itself.

        Modules with hooks are not among them. So call this after all recorders, which are hooks, have been attached.
        """
        return [module for block in self._blocks for module in token_wise_modules(block)]

    def _blocks_below(self, module: nn.Module) -> list[nn.Module]:
        """Return the blocks below the one that contains a module; none if the blocks are not known."""
        for index, block in enumerate(self._blocks):
            if any(part is module for part in block.modules()):
                return self._blocks[:index]
        return []


def _rows_with_context(facts: Sequence[Fact]) -> list[tuple[int, Row]]:
    """Return the rows that have a context, from the shortest to the longest, each with the index of its fact.

    The context template ``{}`` gives the plain prompt, which is not among them.
    """
    rows = [
        (index, row)
        for index, fact in enumerate(facts)
        for row in fact.contexts
        if (row.prompt, row.lookup) != (fact.plain.prompt, fact.plain.lookup)
    ]
    return sorted(rows, key=lambda item: len(item[1].prompt))


def _row_weights(facts: Sequence[Fact], context_rows: Sequence[tuple[int, Row]]) -> Tensor:
    """Return the weights with which the keys k of the facts are computed from the keys of rows.

    Args:
        facts: the batch.
        context_rows: from :func:`_rows_with_context`.

    Returns:
        Shape ``(facts, rows)``, where the rows are ``context_rows``, followed by the plain prompt of each fact. A plain
        prompt has the weight of those contexts that are not in ``context_rows``.
    """
    weights = torch.zeros(len(facts), len(context_rows) + len(facts), dtype=torch.float64)
    for column, (index, row) in enumerate(context_rows):
        weights[index, column] = row.weight
    for index, fact in enumerate(facts):
        plain_weight = sum(row.weight for row in fact.contexts) - weights[index].sum()
        weights[index, len(context_rows) + index] = plain_weight
    return weights


class _RowGroup:
    """Rows that run in one batch. It keeps the output of the lower blocks once these no longer change.

    Args:
        runner: runs the model.
        rows: the rows.
    """

    def __init__(self, runner: Runner, rows: Sequence[Row]) -> None:
        self._runner = runner
        self._ids, self.mask = pad_rows([row.prompt for row in rows], runner.pad, "right", runner.device)
        self._lengths = torch.tensor([len(row.prompt) for row in rows])
        self._lookups = torch.tensor([row.lookup for row in rows])
        self._cached_blocks: Sequence[nn.Module] = []
        self._cached_output: Any = None
        self._notes: dict[int, Any] = {}

    @torch.no_grad()
    def run(
        self, skip_padding: Sequence[nn.Module], *, until: nn.Module, constant_blocks: Sequence[nn.Module] = ()
    ) -> None:
        """Run the rows, and stop after a module has returned.

        Args:
            skip_padding: the modules that do not compute padding.
            until: the module to stop after.
            constant_blocks: the lowest blocks, if they will not change any more. The next run reuses their output.
        """
        outputs: list[Any] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(fixed_output(self._cached_blocks, self._cached_output))
            stack.enter_context(recording_output(constant_blocks[-1] if constant_blocks else None, outputs.append))
            stack.enter_context(computing_only(skip_padding, self.mask.bool()))
            stack.enter_context(grouped_queries())
            stack.enter_context(ending_after(until))
            self._runner.call(self._ids, self.mask, self._lengths, notes=self._notes)
        if constant_blocks:
            self._cached_blocks, self._cached_output = constant_blocks, outputs[0]

    def at_lookup_tokens(self, values: Tensor) -> Tensor:
        """Return the values at the lookup tokens: ``(rows, tokens, width)`` to ``(rows, width)``.

        Raises:
            ModelError: the values are not one vector for every token.
        """
        values = with_row_axis(values, len(self._ids))
        if values.shape[:2] != self._ids.shape:
            raise ModelError("an edited layer gets no vector for every token; name another layer")
        rows = torch.arange(len(self._lookups), device=values.device)
        return values[rows, self._lookups.to(values.device)]
