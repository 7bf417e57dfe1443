"""Run EasyEdit's WISE and DEFER in this package's loops. They replace a layer by one that holds the edits.

EasyEdit's layers read a batch as a whole: WISE averages over its rows, DEFER reads the last column, padding or not.
Here they run row by row, without padding, so that an answer does not depend on the other rows of its batch.
"""

from __future__ import annotations

import contextlib
import copy as copying
import functools
import importlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.bridge.easyedit_location import PACKAGE
from easyedit_lifelong.bridge.method_calls import call_hparams, undone_on_failure, valid_requests
from easyedit_lifelong.bridge.method_context import copy_with_state, method_context, model_state_of
from easyedit_lifelong.bridge.wrapping import replaced
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.samples import ZSRE
from easyedit_lifelong.errors import EditError, HyperParameterError, ModelError
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.models.anatomy import is_transposed
from easyedit_lifelong.models.modules import find_module, module_path
from easyedit_lifelong.models.prompt_positions import PositionTracker

LAYER_METHODS = {"WISE": ("wise.WISE", "WISEAdapter"), "DEFER": ("defer.DEFER", "DeferAdaptor")}
"""For each method, the module of EasyEdit and the class of the layer that holds the edits."""

_HISTORIES = ("edit_history", "merge_group_edit_history")


def check_layer_method(model: Any, tok: Any, hparams: Any) -> None:
    """Check that the layer exists, has no edits, and can be edited with these settings.

    Raises:
        HyperParameterError: a setting can't be used.
        ModelError: the model lacks the layer, or its layer can't be edited.
        EditError: the layer has edits of this method.
    """
    if len(hparams.inner_params) != 1:
        raise HyperParameterError(f"inner_params: {hparams.inner_params!r} must name one weight")
    path = module_path(hparams.inner_params[0])
    _, layer = find_module(model, path)
    if any(type(layer).__name__.endswith(adaptor) for _, adaptor in LAYER_METHODS.values()):
        raise EditError("the model carries edits already; a run begins on the unedited model")
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise ModelError(f"inner_params: {path!r} has no weight")
    if not hasattr(hparams, "save_freq"):  # DEFER
        return
    if not hparams.retrieve:
        raise HyperParameterError(
            "retrieve: false can't be used: EasyEdit's WISE then merges its memories while it is scored."
        )
    if hparams.load_path:
        raise HyperParameterError("load_path can't be used in this package's loops")
    if not hparams.save_freq or hparams.merge_freq % hparams.save_freq:
        raise HyperParameterError(
            f"merge_freq: {hparams.merge_freq} is not a multiple of save_freq, {hparams.save_freq}"
        )
    if is_transposed(layer) or layer.bias is not None:
        raise ModelError(f"inner_params: {path!r}: EasyEdit's WISE edits linear layers without a bias only")


def layer_apply_function(name: str, original: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """Wrap EasyEdit's apply function: it edits the model in place; if an edit fails, the model is unchanged.

    Args:
        name: the method's name in EasyEdit.
        original: EasyEdit's apply function.
    """

    def apply(
        model: Any,
        tok: Any,
        requests: Sequence[Any],
        hparams: Any,
        copy: bool = False,
        return_orig_weights: bool = True,
        keep_original_weight: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Any]:
        (request,) = valid_requests(name, requests, batchable=False)
        model = copy_with_state(model) if copy else model
        path = module_path(hparams.inner_params[0])
        parent, leaf = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
        own_class = _adaptor_class(name)
        layer = getattr(parent, leaf)
        is_first = not isinstance(layer, own_class)
        tracker = PositionTracker.attach(model)
        before = layer if is_first else copying.deepcopy(layer, {id(tracker): tracker})
        state = model_state_of(model)
        histories = {key: copying.deepcopy(value) for key, value in state.caches.items() if key[1] in _HISTORIES}

        def undo() -> None:
            setattr(parent, leaf, before)
            for key in [key for key in state.caches if key[1] in _HISTORIES]:
                del state.caches[key]
            state.caches.update(histories)

        def undo_and_detach() -> None:
            undo()
            tracker.detach()

        with undone_on_failure(name, request, undo_and_detach):
            if not is_first:
                layer.__class__ = own_class  # EasyEdit compares the type
            own = _hparams_for(hparams, model, path, 0 if is_first else getattr(layer, "editing_total_cnt", 0))
            record = {
                "prompt": request.prompt,
                "target_new": request.target_new,
                "loc_prompt": _unrelated_text(request, own.seed) if name == "WISE" else "",
            }
            with (
                method_context(model, tok, own, {}, padding_side="left" if name == "WISE" else "right"),
                _wise_templates_without_brackets(name),
            ):
                original(model, tok, [record], own, copy=False)
            edited = getattr(parent, leaf)
            memories = [("memory_weight", weight) for weight in getattr(edited, "memory_weight", [])]
            for parameter, value in [*edited.named_parameters(), *memories]:
                if not torch.isfinite(value).all():
                    raise EditError(f"{request.where}: EasyEdit's {name} wrote infinity or NaN into {path}.{parameter}")
            for activations in ("original_layer_output", "new_weight_layer_output"):
                edited.__dict__.pop(activations, None)  # WISE keeps them with their graph, which can't be copied
            edited.__class__ = _row_by_row(own_class)
            edited.__dict__["_tracker"] = tracker
        restore = state.record_edit(undo)

        def roll_back() -> None:
            restore()
            tracker.detach()

        return model, Rollback(roll_back, on_items=keep_original_weight)

    return apply


def _adaptor_class(name: str) -> Any:
    """Return EasyEdit's class of the layer that holds a method's edits."""
    module, adaptor = LAYER_METHODS[name]
    return getattr(importlib.import_module(f"{PACKAGE}.models.{module}"), adaptor)


@contextlib.contextmanager
def _wise_templates_without_brackets(name: str) -> Iterator[None]:
    """Remove curly brackets from the texts that WISE generates and then formats."""
    if name != "WISE":
        yield
        return
    module = importlib.import_module(f"{PACKAGE}.models.wise.wise_main")
    generate = module.get_context_templates

    def without_brackets(*args: Any, **kwargs: Any) -> list[str]:
        texts = (template.removesuffix("{}") for template in generate(*args, **kwargs))
        return [text.replace("{", " ").replace("}", " ") + "{}" for text in texts]

    with replaced(module, get_context_templates=without_brackets):
        yield


def _hparams_for(hparams: Any, model: Any, path: str, edits: int) -> Any:
    """Return a copy of hyperparameters for one call.

    Args:
        hparams: the hyperparameters.
        model: the model.
        path: the path of the layer.
        edits: the number of edits before this one; every edit has another seed, so that WISE's masks differ.
    """
    own = call_hparams(hparams, model, [path])
    own.inner_params = [re.sub(r"\.(\d+)", r"[\1]", path) + ".weight"]  # EasyEdit evaluates the path as Python
    own.seed = int(getattr(hparams, "seed", 0) or 0) + edits
    own.sequential_edit = True  # keep earlier edits
    return own


def _unrelated_text(request: EditRequest, number: int) -> str:
    """Return a text that the edit must not affect, on which WISE trains: a trivia question of the zsRE sample.

    EasyEdit's examples take such questions from zsRE's training data. The request's own locality prompts are scored,
    so they are not used.
    """
    records = json.loads(ZSRE.read_text(encoding="utf-8"))
    texts = [
        (record["loc"], record["loc_ans"])
        for record in records
        if record["loc"] not in {probe.prompt for probes in request.locality.values() for probe in probes}
    ]
    question, answer = texts[number % len(texts)]
    return f"{question} {answer}"


@functools.cache
def _row_by_row(adaptor: Any) -> type:
    """Return a subclass of one of EasyEdit's layers that processes each row by itself, without padding."""

    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        window = self.__dict__["_tracker"].current()
        real = None if window is None or window.real.shape != hidden.shape[:2] else window.real.to(hidden.device)
        rows = []
        for index, row in enumerate(hidden):
            kept = slice(None) if real is None else real[index].bool()
            output = adaptor.forward(self, row[kept][None])[0]
            padded = output.new_zeros(len(row), output.shape[-1])
            padded[kept] = output
            rows.append(padded)
        return torch.stack(rows)

    return type(f"RowByRow{adaptor.__name__}", (adaptor,), {"forward": forward, "__doc__": _row_by_row.__doc__})
