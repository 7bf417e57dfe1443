"""One lock for each model, so that several threads can use an edited model.

An edited model's layers find prompts, and training edits puts trial values in place of stored ones, through state that
belongs to the model. So one thread at a time runs a pass, a generation, an edit or a rollback; the others wait.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from easyedit_lifelong.models.wrappers import unwrap_model

Result = TypeVar("Result")

# Not an attribute of the model: a model without edits has no trace of this package, and a lock can't be copied.
_LOCKS: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_CREATING = threading.Lock()


def model_lock(model: Any) -> threading.RLock:
    """Return a model's lock, which the thread that holds it can acquire again."""
    model = unwrap_model(model)
    lock = _LOCKS.get(model)
    if lock is None:
        with _CREATING:
            lock = _LOCKS.setdefault(model, threading.RLock())
    return lock


def holding_lock(model: Any, function: Callable[[], Result]) -> Callable[[], Result]:
    """Return a function that calls another one while it holds a model's lock."""
    # A deep copy of a partial refers to the copied model. A closure would not.
    return functools.partial(_call_with_lock, model, function)


def _call_with_lock(model: Any, function: Callable[[], Result]) -> Result:
    """Call a function while holding a model's lock."""
    with model_lock(model):
        return function()
