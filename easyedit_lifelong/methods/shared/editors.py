"""The register of the editors that are on a model, for all methods.

The register is an attribute of the model object, so a deep copy of the model has its own. It is deleted with the last
editor.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.model_lock import model_lock
from easyedit_lifelong.models.pickling import NotPicklable
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_ATTRIBUTE = "_easyedit_lifelong_editors"
_INTERNAL_PASS = "_easyedit_lifelong_internal_pass"
_PEFT_PREFIX = "base_model.model."
"""The path of a model in PEFT's wrapper."""


class _Register(NotPicklable, collections.UserDict[tuple[str, str], Any]):
    """The editors on a model, by method and place.

    Args:
        model: the model.

    Attributes:
        handle: removes the hook that warns of files of adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.handle = model.register_state_dict_post_hook(_warn_of_adapter_file)


def _warn_of_adapter_file(model: nn.Module, state_dict: Any, prefix: str, metadata: Any) -> None:
    """Warn that a file of an adapter will hold no edits. This is the hook, which runs when a model's state is read.

    ``PeftModel.save_pretrained`` reads the state of the wrapper, and ``PeftModel.from_pretrained`` ignores what is not
    an adapter's.
    """
    if prefix.endswith(_PEFT_PREFIX):
        LOG.warning(
            "this model carries edits, which are lost where PEFT saves its adapter and loads it again: save them with "
            "save_edits(model, folder)"
        )


def editors_on(model: Any, method: str) -> dict[str, Any]:
    """Return a method's editors that are on a model, by the ``place`` under which each was registered."""
    editors = unwrap_model(model).__dict__.get(_ATTRIBUTE, {})
    return {place: editor for (owner, place), editor in editors.items() if owner == method}


def carries_edits(model: Any) -> bool:
    """Return whether a model has an editor of any method."""
    return bool(unwrap_model(model).__dict__.get(_ATTRIBUTE))


def register_editor(model: Any, method: str, place: str, editor: Any) -> None:
    """Register an editor on a model, and add the methods that plugins define for edited models.

    Args:
        model: the model.
        method: the name of the editor's method.
        place: the path of the edited layer, or another name that is unique among the method's editors on the model.
        editor: the editor.
    """
    model = unwrap_model(model)
    if _ATTRIBUTE not in model.__dict__:
        model.__dict__[_ATTRIBUTE] = _Register(model)
    model.__dict__[_ATTRIBUTE][method, place] = editor
    for model_method in get_plugins().model_methods:
        model.__dict__.setdefault(model_method.name, functools.partial(model_method.call, model))


def unregister_editor(model: Any, method: str, place: str) -> None:
    """Remove an editor from a model's register; do nothing if it is not there.

    With the last editor, remove the register and the methods that plugins added.
    """
    model = unwrap_model(model)
    editors = model.__dict__.get(_ATTRIBUTE, {})
    editors.pop((method, place), None)
    if not editors:
        register = model.__dict__.pop(_ATTRIBUTE, None)
        if register is not None:
            register.handle.remove()
        for model_method in get_plugins().model_methods:
            attribute = model.__dict__.get(model_method.name)
            # An attribute of this name that the user has set stays.
            if isinstance(attribute, functools.partial) and attribute.func is model_method.call:
                del model.__dict__[model_method.name]


def base_fingerprint(model: Any) -> str:
    """Return the fingerprint of the base model: of the weights as they were before any edit changed them."""
    for editor in unwrap_model(model).__dict__.get(_ATTRIBUTE, {}).values():
        fingerprint: str | None = getattr(editor, "base_fingerprint", None)
        if fingerprint is not None:
            return fingerprint
    return model_fingerprint(model)


@contextlib.contextmanager
def without_edits(model: Any) -> Iterator[None]:
    """Suspend a model's edits inside the context, for all editors that have a ``without_edits`` context manager."""
    with model_lock(model), contextlib.ExitStack() as stack:
        for editor in list(unwrap_model(model).__dict__.get(_ATTRIBUTE, {}).values()):
            if (suspend := getattr(editor, "without_edits", None)) is not None:
                stack.enter_context(suspend())
        yield


@contextlib.contextmanager
def internal_pass(model: Any) -> Iterator[None]:
    """Mark the forward passes inside the context as internal, so that hit counters ignore them. Contexts may nest."""
    model = unwrap_model(model)
    with model_lock(model):
        is_outermost = not in_internal_pass(model)
        model.__dict__[_INTERNAL_PASS] = True
        try:
            yield
        finally:
            if is_outermost:
                del model.__dict__[_INTERNAL_PASS]


def in_internal_pass(model: Any) -> bool:
    """Return whether the current forward pass is an internal pass."""
    return _INTERNAL_PASS in unwrap_model(model).__dict__
