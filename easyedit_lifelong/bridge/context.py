"""What EasyEdit's own editing methods must find around them to compute what they mean to.

They were written for transformers of 2023, for one model per process, and for somebody who watches
standard output. Inside :func:`around` they find:

- blocks that seem to return tuples. Since transformers 5 a block returns a plain tensor; ``output[0]``,
  meant to be the hidden states of all rows, is then the first row alone, and MEMIT edits something else.
- padding on the right, which their index arithmetic takes for granted.
- their module-level caches filled with what belongs to this model, and with nothing else.
- ``print`` that goes to the debug log.
- randomness of a seed of its own, and parameters that may be frozen without anybody noticing later.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LOG = logging.getLogger(__name__)

_PACKAGE = "easyeditor"
_CACHES: dict[str, Callable[[], Any]] = {
    "CONTEXT_TEMPLATES_CACHE": lambda: None,
    "COV_CACHE": dict,
    "inv_mom2_cache": dict,
}
"""Module-level caches of EasyEdit's methods, and what each holds at first."""


@dataclass
class Memory:
    """What EasyEdit would keep in module globals, for one model.

    Attributes:
        caches: values of the module-level caches, by module and name.
        moments: second moments E[kkᵀ] by where they come from, on the CPU.
        weights: names of the weights that have been rewritten.
    """

    caches: dict[tuple[str, str], Any] = field(default_factory=dict)
    moments: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)


_MEMORIES: weakref.WeakKeyDictionary[Any, Memory] = weakref.WeakKeyDictionary()


def memory_of(model: Any) -> Memory:
    """Return what is remembered about a model; it goes with the model."""
    return _MEMORIES.setdefault(model, Memory())


@contextlib.contextmanager
def around(model: Any, tokenizer: Any, hparams: Any, covariances: Mapping[str, Tensor]) -> Iterator[None]:
    """Give EasyEdit's methods what they rely on, inside; everything is as before, after.

    Args:
        model: the model that is edited.
        tokenizer: its tokenizer.
        hparams: EasyEdit's hyperparameters; ``layer_module_tmp`` says what a block is called.
        covariances: second moments by module path, for ``COV_CACHE``.
    """
    import torch

    from easyedit_lifelong.models.modes import evaluating

    blocks = _block_test(getattr(hparams, "layer_module_tmp", ""))
    with (
        evaluating(model), _padding_right(tokenizer), _own_requires_grad(model), torch.random.fork_rng(),
        _printing_to_log(), _own_caches(memory_of(model), _cached_moments(model, covariances)),
        _tuples_from_blocks(blocks),
    ):  # fmt: skip
        torch.manual_seed(int(getattr(hparams, "seed", 0) or 0))
        yield


@contextlib.contextmanager
def _padding_right(tokenizer: Any) -> Iterator[None]:
    before, tokenizer.padding_side = tokenizer.padding_side, "right"
    try:
        yield
    finally:
        tokenizer.padding_side = before


@contextlib.contextmanager
def _own_requires_grad(model: Any) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
            parameter.grad = None


@contextlib.contextmanager
def _printing_to_log() -> Iterator[None]:
    """Give EasyEdit's modules a ``print`` of their own; standard output may be showing a progress bar."""

    def log(*values: Any, **_: Any) -> None:
        LOG.debug("%s", " ".join(str(value) for value in values))

    modules = [module for module in _modules() if "print" not in module.__dict__]
    for module in modules:
        module.__dict__["print"] = log
    try:
        yield
    finally:
        for module in modules:
            module.__dict__.pop("print", None)


def _cached_moments(model: Any, covariances: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    name = getattr(model.config, "_name_or_path", "").replace("/", "_")
    # The main branch names a model by the last part of its path.
    names = {name, getattr(model.config, "_name_or_path", "").rstrip("/").rpartition("/")[2]}
    return {(name, module): moment for name in names for module, moment in covariances.items()}


@contextlib.contextmanager
def _own_caches(memory: Memory, moments: Mapping[tuple[str, str], Tensor]) -> Iterator[None]:
    before: dict[tuple[Any, str], Any] = {}
    for module in _modules():
        for name, empty in _CACHES.items():
            if name in module.__dict__:
                before[module, name] = module.__dict__[name]
                held = memory.caches.setdefault((module.__name__, name), empty())
                module.__dict__[name] = {**held, **moments} if name == "COV_CACHE" else held
    try:
        yield
    finally:
        for (module, name), value in before.items():
            held = module.__dict__[name]
            if name != "COV_CACHE":  # what it holds is kept in memory.moments, under a better key
                memory.caches[module.__name__, name] = held
            module.__dict__[name] = value


@contextlib.contextmanager
def _tuples_from_blocks(is_block: Callable[[str], bool]) -> Iterator[None]:
    """Have nethook's traces see a block's output as a tuple, whatever it is; the model sees no difference."""
    import torch
    from easyeditor.util import nethook

    original = nethook.Trace

    class Trace(original):  # type: ignore[misc, valid-type]
        """EasyEdit's trace, to whom a block's output is a tuple that begins with the hidden states."""

        def __init__(self, module: Any, layer: Any = None, *args: Any, edit_output: Any = None, **kwargs: Any) -> None:
            self._wraps = layer is not None and is_block(str(layer))
            if self._wraps and edit_output:
                edit_output = _editing_tuples(edit_output, nethook.invoke_with_optional_args)
            super().__init__(module, layer, *args, edit_output=edit_output, **kwargs)

        @property
        def output(self) -> Any:
            return self._output

        @output.setter
        def output(self, value: Any) -> None:
            self._output = (value,) if self._wraps and isinstance(value, torch.Tensor) else value

    nethook.Trace = Trace
    try:
        yield
    finally:
        nethook.Trace = original


def _editing_tuples(edit: Callable[..., Any], invoke: Callable[..., Any]) -> Callable[..., Any]:
    def edit_output(output: Any, layer: Any) -> Any:
        if isinstance(output, tuple):
            return invoke(edit, output=output, layer=layer)
        edited = invoke(edit, output=(output,), layer=layer)
        return edited[0] if isinstance(edited, tuple) else edited

    return edit_output


def _block_test(template: str) -> Callable[[str], bool]:
    before, _, after = template.partition("{}")

    def is_block(name: str) -> bool:
        number = name[len(before) : len(name) - len(after) if after else None]
        return bool(template) and name.startswith(before) and name.endswith(after) and number.isdigit()

    return is_block


def _modules() -> list[Any]:
    return [
        module
        for name, module in list(sys.modules.items())
        if module is not None and (name == _PACKAGE or name.startswith(_PACKAGE + "."))
    ]
