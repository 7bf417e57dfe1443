"""The context that EasyEdit's own editing methods need to compute what they mean to.

They were written for transformers of 2023, for one model per process, and for somebody who watches
standard output. Inside :func:`method_context` they find:

- blocks that seem to return tuples. Since transformers 5 a block returns a plain tensor; ``output[0]``,
  meant to be the hidden states of all rows, is then the first row alone, and MEMIT edits something else.
- padding on the right, which their index arithmetic takes for granted.
- their module-level caches filled with what belongs to this model, and with nothing else.
- ``print`` that goes to the debug log.
- randomness of a separate seed, and parameters that may be frozen without anybody noticing later.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.bridge.locate import PACKAGE
from easyedit_lifelong.bridge.wrapping import easyedit_modules, replaced
from easyedit_lifelong.models.modes import evaluating

LOG = logging.getLogger(__name__)

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
        weights: names of the weights that have been edited.
    """

    caches: dict[tuple[str, str], Any] = field(default_factory=dict)
    moments: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)


_MEMORIES: weakref.WeakKeyDictionary[Any, Memory] = weakref.WeakKeyDictionary()


def memory_of(model: Any) -> Memory:
    """Return what is remembered about a model; it goes with the model."""
    return _MEMORIES.setdefault(model, Memory())


def device_name(model: Any) -> int | str:
    """Return a model's device as every flavour of EasyEdit takes it: a CUDA device's number, or the device's name."""
    device = model.get_input_embeddings().weight.device
    return device.index if device.type == "cuda" else str(device)


@contextlib.contextmanager
def method_context(model: Any, tokenizer: Any, hparams: Any, covariances: Mapping[str, Tensor]) -> Iterator[None]:
    """Give EasyEdit's methods what they rely on, inside; everything is as before, after.

    Args:
        model: the model that is edited.
        tokenizer: its tokenizer.
        hparams: EasyEdit's hyperparameters; ``layer_module_tmp`` says what a block is called.
        covariances: second moments by module path, for ``COV_CACHE``.
    """
    nethook = importlib.import_module(f"{PACKAGE}.util.nethook")
    path = getattr(model.config, "_name_or_path", "")
    # The main branch names a model by the last part of its path.
    names = {path.replace("/", "_"), path.rstrip("/").rpartition("/")[2]}
    moments = {(name, module): moment for name in names for module, moment in covariances.items()}
    with (
        evaluating(model),
        replaced(tokenizer, padding_side="right"),
        _restored_parameters(model),
        torch.random.fork_rng(),
        printing_to_log(),
        _model_caches(memory_of(model), moments),
        replaced(nethook, Trace=_block_trace(nethook, getattr(hparams, "layer_module_tmp", ""))),
    ):
        torch.manual_seed(int(getattr(hparams, "seed", 0) or 0))
        yield


@contextlib.contextmanager
def _restored_parameters(model: Any) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
            parameter.grad = None


@contextlib.contextmanager
def printing_to_log() -> Iterator[None]:
    """Give EasyEdit's modules another ``print``; standard output may be showing a progress bar."""

    def log(*values: Any, **_: Any) -> None:
        LOG.debug("%s", " ".join(str(value) for value in values))

    modules = [module for module in easyedit_modules() if "print" not in vars(module)]
    for module in modules:
        vars(module)["print"] = log
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("print", None)


@contextlib.contextmanager
def _model_caches(memory: Memory, moments: Mapping[tuple[str, str], Tensor]) -> Iterator[None]:
    places = [(module, name) for module in easyedit_modules() for name in _CACHES if name in vars(module)]
    before = [vars(module)[name] for module, name in places]
    for module, name in places:
        held = memory.caches.setdefault((module.__name__, name), _CACHES[name]())
        vars(module)[name] = {**held, **moments} if name == "COV_CACHE" else held
    try:
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            if name != "COV_CACHE":  # what it holds is kept in memory.moments, under a better key
                memory.caches[module.__name__, name] = vars(module)[name]
            vars(module)[name] = value


def _block_trace(nethook: Any, template: str) -> type:
    """Return nethook's ``Trace``, to which a block's output is a tuple, whatever it is; the model sees no difference.

    Args:
        nethook: EasyEdit's module of that name.
        template: path of a block, with ``{}`` for its number.
    """
    block = re.compile(re.escape(template).replace(r"\{\}", r"\d+"))

    class Trace(nethook.Trace):
        """EasyEdit's trace, to which a block's output is a tuple that begins with the hidden states."""

        def __init__(self, module: Any, layer: Any = None, *args: Any, edit_output: Any = None, **kwargs: Any) -> None:
            self._wraps = layer is not None and block.fullmatch(str(layer)) is not None
            if self._wraps and edit_output:
                edit_output = _editing_tuples(edit_output, nethook.invoke_with_optional_args)
            super().__init__(module, layer, *args, edit_output=edit_output, **kwargs)

        @property
        def output(self) -> Any:
            return self._output

        @output.setter
        def output(self, value: Any) -> None:
            self._output = (value,) if self._wraps and isinstance(value, Tensor) else value

    return Trace


def _editing_tuples(edit: Callable[..., Any], invoke: Callable[..., Any]) -> Callable[..., Any]:
    def edit_output(output: Any, layer: Any) -> Any:
        if isinstance(output, tuple):
            return invoke(edit, output=output, layer=layer)
        edited = invoke(edit, output=(output,), layer=layer)
        return edited[0] if isinstance(edited, tuple) else edited

    return edit_output
