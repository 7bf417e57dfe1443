"""What edits a model carries: one place for every method's editors, kept on the model itself.

It goes where the model goes, a deep copy's with the copy, and leaves nothing once the last editor has gone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.wrappers import bare_model
from easyedit_lifelong.plugins import get_plugins

_ATTRIBUTE = "_easyedit_lifelong_editors"
_INTERNAL_PASS = "_easyedit_lifelong_internal_pass"


def editors_on(model: Any, method: str) -> dict[str, Any]:
    """Return a method's editors that are on a model, by what they are on."""
    editors = bare_model(model).__dict__.get(_ATTRIBUTE, {})
    return {place: editor for (owner, place), editor in editors.items() if owner == method}


def carries_edits(model: Any) -> bool:
    """Tell whether a model carries an editor of any method."""
    return bool(bare_model(model).__dict__.get(_ATTRIBUTE))


def register_editor(model: Any, method: str, place: str, editor: Any) -> None:
    """Register an editor on a model, and with the first one the methods that plugins give an edited model."""
    model = bare_model(model)
    model.__dict__.setdefault(_ATTRIBUTE, {})[method, place] = editor
    for one in get_plugins().model_methods:
        model.__dict__.setdefault(one.name, functools.partial(one.call, model))


def unregister_editor(model: Any, method: str, place: str) -> None:
    """Take an editor off a model's list; at the second call, do nothing."""
    model = bare_model(model)
    editors = model.__dict__.get(_ATTRIBUTE, {})
    editors.pop((method, place), None)
    if not editors:
        model.__dict__.pop(_ATTRIBUTE, None)
        for one in get_plugins().model_methods:
            found = model.__dict__.get(one.name)
            if isinstance(found, functools.partial) and found.func is one.call:  # and not the user's own
                del model.__dict__[one.name]


def base_fingerprint(model: Any) -> str:
    """Return the fingerprint of a model's weights as they were before edits went into them, if any did."""
    for editor in bare_model(model).__dict__.get(_ATTRIBUTE, {}).values():
        known: str | None = getattr(editor, "base_fingerprint", None)
        if known is not None:
            return known
    return model_fingerprint(model)


@contextlib.contextmanager
def without_edits(model: Any) -> Iterator[None]:
    """Have a model without its edits inside, as far as its editors can leave them out (those in weights and hooks)."""
    with contextlib.ExitStack() as stack:
        for editor in list(bare_model(model).__dict__.get(_ATTRIBUTE, {}).values()):
            if (leave_out := getattr(editor, "without_edits", None)) is not None:
                stack.enter_context(leave_out())
        yield


@contextlib.contextmanager
def internal_pass(model: Any) -> Iterator[None]:
    """Mark the passes inside as internal: training and inspection do not count as hits of a key."""
    model = bare_model(model)
    before = model.__dict__.get(_INTERNAL_PASS)
    model.__dict__[_INTERNAL_PASS] = True
    try:
        yield
    finally:
        if before is None:
            del model.__dict__[_INTERNAL_PASS]


def in_internal_pass(model: Any) -> bool:
    """Tell whether the pass under way is an editor's own."""
    return _INTERNAL_PASS in bare_model(model).__dict__
