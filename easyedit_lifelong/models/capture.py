"""Record inputs and outputs of modules in forward passes, and end a pass when all are recorded."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.encoding import pad_rows, row_batches
from easyedit_lifelong.models.row_axis import with_row_axis
from easyedit_lifelong.models.runner import Runner

_BATCH_TOKENS = 512
"""Largest number of tokens in a pass. In small batches the rows have similar lengths, so there is little padding."""


class PassEnded(Exception):
    """Raised inside a forward pass to end it early; see :func:`ending_after`."""


@contextlib.contextmanager
def ending_after(module: nn.Module) -> Iterator[None]:
    """End the forward pass in this context as soon as a module has returned. The pass has no result."""

    def end(*_: Any) -> None:
        raise PassEnded

    with contextlib.suppress(PassEnded), module.register_forward_hook(end):
        yield


def recording_output(module: nn.Module | None, record: Callable[[Any], None]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which ``record`` is called with every output of a module.

    Args:
        module: the module; None records nothing.
        record: called with the output, in every forward pass through the module.
    """

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        record(output)

    return contextlib.nullcontext() if module is None else module.register_forward_hook(hook)


@contextlib.contextmanager
def recording_inputs(
    modules: Mapping[str, nn.Module], record: Callable[[str, Any], None], *, end: bool = False
) -> Iterator[None]:
    """Call ``record`` with every input of the given modules, in the order in which they run.

    Args:
        modules: the modules by name.
        record: called with a module's name and its first positional argument. If there are only keyword arguments, it
            receives ``hidden_states``, or the first one.
        end: end the forward pass as soon as every module has received its input.
    """
    missing = set(modules)

    def hook(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first_keyword_argument = next(iter(kwargs.values()), None)
        record(name, args[0] if args else kwargs.get("hidden_states", first_keyword_argument))
        missing.discard(name)
        if end and not missing:
            raise PassEnded

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(PassEnded))
        for name, module in modules.items():
            stack.enter_context(module.register_forward_pre_hook(functools.partial(hook, name), with_kwargs=True))
        yield


@contextlib.contextmanager
def outputs_with_gradients(modules: Mapping[str, nn.Module], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Record the outputs of modules by name; each output can be differentiated with respect to.

    An output that depends on nothing with a gradient becomes the start of the backward pass. So the blocks below the
    first of the modules store nothing.
    """

    def hook(name: str, _: nn.Module, __: Any, output: Tensor) -> Tensor:
        outputs[name] = output if output.requires_grad else output.detach().requires_grad_(True)
        return outputs[name].clone()  # some blocks, such as Falcon's, add to the output in place

    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(module.register_forward_hook(functools.partial(hook, name)))
        yield


def inputs_at(runner: Runner, layer: nn.Module, rows: Sequence[list[int]]) -> list[Tensor]:
    """Return a layer's inputs at every token of the given rows.

    Args:
        runner: runs the model.
        layer: the layer. Nothing after its input is computed.
        rows: token ids. Equal rows are computed once.

    Returns:
        A tensor of shape ``(tokens, width)`` for each row, in the model's dtype.

    Raises:
        ModelError: the layer didn't run, or doesn't receive one vector per token.
    """
    name = f"inner_params: {type(layer).__name__}"  # for messages: GRACE's users name the layer in inner_params
    inputs_of: dict[tuple[int, ...], Tensor] = {}
    distinct = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
    for batch, recorded in input_batches(runner, {name: layer}, distinct):
        inputs_of |= {tuple(row): inputs[: len(row)] for row, inputs in zip(batch, recorded[name], strict=True)}
    return [inputs_of[tuple(row)] for row in rows]


def input_batches(
    runner: Runner, layers: Mapping[str, nn.Module], rows: Sequence[list[int]]
) -> Iterator[tuple[list[list[int]], dict[str, Tensor]]]:
    """Yield the inputs of layers, batch by batch. Each forward pass ends before the last of the layers runs.

    Args:
        runner: runs the model.
        layers: the layers; messages use their keys as names.
        rows: token ids.

    Yields:
        The rows of a batch, and each layer's inputs, shape ``(rows, tokens, width)``, padded on the right.

    Raises:
        ModelError: a layer didn't run, or doesn't receive one vector per token.
    """
    for batch in row_batches(rows, _BATCH_TOKENS):
        ids, mask = pad_rows(batch, runner.pad, "right", runner.device)
        recorded: dict[str, Any] = {}
        with torch.no_grad(), recording_inputs(layers, recorded.__setitem__, end=True):
            runner.call(ids, mask, mask.sum(dim=1))
        for name in layers:
            inputs = with_row_axis(recorded.get(name), len(ids))
            if not isinstance(inputs, Tensor) or inputs.dim() != 3 or inputs.shape[:2] != ids.shape:
                raise ModelError(f"{name} gets no vector for every token; name another layer")
            recorded[name] = inputs
        yield batch, recorded
