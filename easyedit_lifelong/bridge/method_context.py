"""The context in which EasyEdit's own editing methods compute correct results.

They were written for transformers of 2023 and for one model per process. :func:`method_context` provides:

- blocks whose output is a tuple. Since transformers 5, a block returns a plain tensor. ``output[0]``, which should be
  the hidden states of all rows, would then be the first row only, and MEMIT would compute a wrong edit.
- a tokenizer that pads on the right, as their index arithmetic requires.
- module-level caches with the values of this model only.
- a ``print`` that writes to the debug log.
- a separate random state of torch, numpy and Python, with the method's seed. Afterwards, ``requires_grad`` of all
  parameters is restored.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import random
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from easyedit_lifelong.bridge.easyedit_location import PACKAGE
from easyedit_lifelong.bridge.wrapping import easyedit_modules, replaced
from easyedit_lifelong.models.model_modes import evaluating, kept_random_states

LOG = logging.getLogger(__name__)

_CACHES: dict[str, Callable[[], Any]] = {
    "CONTEXT_TEMPLATES_CACHE": lambda: None,
    "COV_CACHE": dict,
    "inv_mom2_cache": dict,
    "edit_history": list,
    "merge_group_edit_history": list,
}
"""The names of module-level caches of EasyEdit's methods; each value returns the initial value."""


@dataclass
class ModelState:
    """The state that EasyEdit keeps in module globals, for one model.

    Attributes:
        caches: values of the module-level caches, by module name and cache name.
        moments: second moments E[k kᵀ], their inverses and projectors on the CPU, by what they were computed from.
        weights: names of the edited weights.
        tensors: what the method keeps from one batch to the next (AlphaEdit's ``cache_c``), by name. The tensors are
            never changed in place.
        edits: an object for each edit that was not rolled back, in order.
    """

    caches: dict[tuple[str, str], Any] = field(default_factory=dict)
    moments: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    edits: list[object] = field(default_factory=list)

    def record_edit(self, undo: Callable[[], None]) -> Callable[[], None]:
        """Record an edit that was just made, and return the function that rolls it back.

        The function also rolls back all later edits, since ``undo`` restores what the model was before the edit. If the
        edit was rolled back together with an earlier one, it does nothing: ``undo`` would bring the earlier one back.

        Args:
            undo: restores the model.
        """
        edit = object()
        self.edits.append(edit)

        def roll_back() -> None:
            if edit in self.edits:
                undo()
                del self.edits[self.edits.index(edit) :]

        return roll_back


_STATES: weakref.WeakKeyDictionary[Any, ModelState] = weakref.WeakKeyDictionary()


def model_state_of(model: Any) -> ModelState:
    """Return the state of a model, at first an empty one. It is deleted together with the model."""
    return _STATES.setdefault(model, ModelState())


def copy_with_state(model: Any) -> Any:
    """Return a deep copy of a model that has a copy of its state."""
    copied = copy.deepcopy(model)
    _STATES[copied] = copy.deepcopy(model_state_of(model))
    return copied


def device_name(model: Any) -> int | str:
    """Return a model's device as all versions of EasyEdit accept it: the index of a CUDA device, else the name."""
    device = model.get_input_embeddings().weight.device
    return device.index if device.type == "cuda" else str(device)


@contextlib.contextmanager
def method_context(
    model: Any,
    tokenizer: Any,
    hparams: Any,
    covariances: Mapping[str, Tensor],
    inverses: Mapping[str, Tensor] | None = None,
    padding_side: str = "right",
) -> Iterator[None]:
    """Set up the context that the module's docstring describes, and restore everything afterwards.

    Args:
        model: the model to edit.
        tokenizer: its tokenizer.
        hparams: EasyEdit's hyperparameters; ``layer_module_tmp`` is the path of a block.
        covariances: second moments by module path, for ``COV_CACHE``.
        inverses: their inverses by module path, for ``inv_mom2_cache``.
        padding_side: the side on which the tokenizer pads.
    """
    nethook = importlib.import_module(f"{PACKAGE}.util.nethook")
    path = getattr(model.config, "_name_or_path", "")
    # The release uses the full path as the model's name, the main branch the last part of it.
    names = {path.replace("/", "_"), path.rstrip("/").rpartition("/")[2]}
    given = {
        cache: {(name, module): matrix for name in names for module, matrix in (matrices or {}).items()}
        for cache, matrices in (("COV_CACHE", covariances), ("inv_mom2_cache", inverses))
    }
    with (
        evaluating(model),
        replaced(tokenizer, padding_side=padding_side),
        _restored_parameters(model),
        _seeded(int(getattr(hparams, "seed", 0) or 0)),
        printing_to_log(),
        _model_caches(model_state_of(model), given),
        replaced(nethook, Trace=_block_trace(nethook, getattr(hparams, "layer_module_tmp", ""))),
    ):
        yield


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random states of torch, numpy and Python, and restore them afterwards."""
    with kept_random_states():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield


@contextlib.contextmanager
def _restored_parameters(model: Any) -> Iterator[None]:
    """Restore ``requires_grad`` of all parameters afterwards, and clear their gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, requires_grad in before:
            parameter.requires_grad_(requires_grad)
            parameter.grad = None


@contextlib.contextmanager
def printing_to_log() -> Iterator[None]:
    """Send ``print`` in EasyEdit's modules to the debug log, since standard output can show a progress bar."""

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
def _model_caches(state: ModelState, given: Mapping[str, Mapping[tuple[str, str], Tensor]]) -> Iterator[None]:
    """Replace the values of EasyEdit's module-level caches by those of one model, and store them again afterwards.

    Args:
        state: the state of the model.
        given: matrices that caches must contain, by the name of the cache. They are not stored: ``state.moments`` holds
            them, with keys that name their source.
    """
    places = [(module, name) for module in easyedit_modules() for name in _CACHES if name in vars(module)]
    before = [vars(module)[name] for module, name in places]
    for module, name in places:
        cached = state.caches.setdefault((module.__name__, name), _CACHES[name]())
        vars(module)[name] = {**cached, **given[name]} if name in given else cached
    try:
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            if name not in given:
                state.caches[module.__name__, name] = vars(module)[name]
            vars(module)[name] = value


def _block_trace(nethook: Any, template: str) -> type:
    """Return a subclass of nethook's ``Trace`` that presents the output of a block as a tuple.

    The model itself gets outputs of the type that the block returned.

    Args:
        nethook: EasyEdit's module ``util.nethook``.
        template: path of a block, with ``{}`` for its number.
    """
    block = re.compile(re.escape(template).replace(r"\{\}", r"\d+"))

    class Trace(nethook.Trace):
        """EasyEdit's trace; the output of a block is a tuple whose first element is the hidden states."""

        def __init__(self, module: Any, layer: Any = None, *args: Any, edit_output: Any = None, **kwargs: Any) -> None:
            self._is_block = layer is not None and block.fullmatch(str(layer)) is not None
            if self._is_block and edit_output:
                edit_output = _edit_as_tuple(edit_output, nethook.invoke_with_optional_args)
            super().__init__(module, layer, *args, edit_output=edit_output, **kwargs)

        @property
        def output(self) -> Any:
            return self._output

        @output.setter
        def output(self, value: Any) -> None:
            self._output = (value,) if self._is_block and isinstance(value, Tensor) else value

    return Trace


def _edit_as_tuple(edit: Callable[..., Any], invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``edit`` for blocks that return a tensor: pass it a tuple, and return the first element of its result.

    Args:
        edit: changes a block's output.
        invoke: nethook's function that passes only the arguments that ``edit`` has.
    """

    def edit_output(output: Any, layer: Any) -> Any:
        if isinstance(output, tuple):
            return invoke(edit, output=output, layer=layer)
        edited = invoke(edit, output=(output,), layer=layer)
        return edited[0] if isinstance(edited, tuple) else edited

    return edit_output
