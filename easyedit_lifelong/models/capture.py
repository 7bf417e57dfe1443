"""Read what modules are given or return in a forward pass, and end the pass as soon as that is known."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.encoding import batches, pad_rows
from easyedit_lifelong.models.runner import Runner

_BATCH_TOKENS = 2048


class PassEnded(Exception):
    """Raised inside a forward pass to end it early; see :func:`ending_after`."""


@contextlib.contextmanager
def ending_after(module: nn.Module) -> Iterator[None]:
    """End the pass inside as soon as a module has returned; what the pass returns is lost."""

    def end(*_: Any) -> None:
        raise PassEnded

    with contextlib.suppress(PassEnded), module.register_forward_hook(end):
        yield


def recording_output(module: nn.Module | None, keep: Callable[[Any], None]) -> contextlib.AbstractContextManager[Any]:
    """Pass what a module returns on to ``keep`` in the passes inside; with no module, do nothing."""

    def record(_: nn.Module, __: Any, output: Any) -> None:
        keep(output)

    return contextlib.nullcontext() if module is None else module.register_forward_hook(record)


@contextlib.contextmanager
def recording_inputs(
    modules: Mapping[str, nn.Module], keep: Callable[[str, Any], None], *, end: bool = False
) -> Iterator[None]:
    """Pass what modules are given on to ``keep`` in the passes inside, in the order in which they run.

    Args:
        modules: the modules by name.
        keep: gets a module's name and its first argument; of keyword arguments only, ``hidden_states`` if it is there.
        end: end the pass inside as soon as every module has been given its input; nothing after that is computed.
    """
    waiting = set(modules)

    def record(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(name, args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None)))
        waiting.discard(name)
        if end and not waiting:
            raise PassEnded

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(PassEnded))
        for name, module in modules.items():
            hook = functools.partial(record, name)
            stack.enter_context(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield


def inputs_at(runner: Runner, layer: nn.Module, rows: Sequence[list[int]]) -> list[Tensor]:
    """Return a layer's inputs at every token of some rows.

    Args:
        runner: of the model.
        layer: the layer; what comes behind it isn't computed.
        rows: token ids, in any number.

    Returns:
        One tensor for each row, ``(tokens, width)``, in the model's dtype.

    Raises:
        ModelError: the layer didn't run, or gets no vector for every token.
    """
    name = f"inner_params: {type(layer).__name__}"
    taken: dict[tuple[int, ...], Tensor] = {}
    distinct = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
    for batch, seen in input_batches(runner, {name: layer}, distinct):
        taken |= {tuple(row): inputs[: len(row)] for row, inputs in zip(batch, seen[name], strict=True)}
    return [taken[tuple(row)] for row in rows]


def input_batches(
    runner: Runner, layers: Mapping[str, nn.Module], rows: Sequence[list[int]]
) -> Iterator[tuple[list[list[int]], dict[str, Tensor]]]:
    """Yield layers' inputs for some rows at a time; each pass ends in front of the last of the layers.

    Args:
        runner: of the model.
        layers: the layers, by what messages call them.
        rows: token ids, in any number.

    Yields:
        The rows of a batch, and each layer's inputs, ``(rows, tokens, width)``, padded on the right.

    Raises:
        ModelError: a layer didn't run, or gets no vector for every token.
    """
    for batch in batches(rows, _BATCH_TOKENS):
        ids, mask = pad_rows(batch, runner.pad, "right", runner.device)
        seen: dict[str, Any] = {}
        with torch.no_grad(), recording_inputs(layers, seen.__setitem__, end=True):
            runner.call(ids, mask, mask.sum(dim=1))
        for name in layers:
            inputs = seen.get(name)
            if not isinstance(inputs, Tensor) or inputs.dim() != 3 or inputs.shape[:2] != ids.shape:
                raise ModelError(f"{name} gets no vector for every token; name another layer")
        yield batch, seen
