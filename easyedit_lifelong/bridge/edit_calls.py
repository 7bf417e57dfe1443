"""Make the editing calls of EasyEdit's ``BaseEditor`` fit our methods.

EasyEdit scores an edit before it applies it, so a wrong argument fails inside its scoring, with an error that does not
name the argument. It passes requests without a ``case_id``, most of them one by one. ``edit`` requires the
hyperparameter ``batch_size`` to be 1, although it passes one request at a time whatever the value is. For EasyEdit's
own methods, all calls run unchanged.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from easyedit_lifelong.bridge.wrapping import replaced, wrap
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins

SINGLE = ("edit", "edit_requests", "generate_edit")
"""The methods of ``BaseEditor`` that pass one request at a time to an apply function."""

BATCHES = ("batch_edit", "normal_edit")
"""The methods of ``BaseEditor`` that pass batches."""

_FIELDS = {"prompts": "prompt", "target_new": "target_new", "subject": "subject", "rephrase_prompts": "rephrase_prompt"}
"""The arguments whose entries are checked as fields of a request: name of the argument to name of the field."""

_LISTS = (*_FIELDS, "ground_truth")
"""The arguments that have one entry for each prompt."""


def wrap_edit_calls(editor_class: Any) -> None:
    """Wrap the editing methods of ``BaseEditor``. A second call does nothing.

    Args:
        editor_class: EasyEdit's ``BaseEditor``.
    """
    for name in SINGLE:
        wrap(editor_class, name, functools.partial(_edit, one_by_one=True))
    for name in BATCHES:
        wrap(editor_class, name, functools.partial(_edit, one_by_one=False))


def numbered(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return an apply function that gives requests without a ``case_id`` the next number, from 0 in its first call.

    Args:
        apply: the apply function of one ``BaseEditor``.
    """
    numbers = itertools.count()

    def apply_numbered(model: Any, tok: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(requests, list):
            requests = [
                {**request, "case_id": next(numbers)}
                if isinstance(request, Mapping) and request.get("case_id") is None
                else request
                for request in requests
            ]
        return apply(model, tok, requests, *args, **kwargs)

    return apply_numbered


def _edit(original: Callable[..., Any], editor: Any, *args: Any, one_by_one: bool, **kwargs: Any) -> Any:
    """Call an editing method of ``BaseEditor``; for one of our methods, check its arguments first.

    Raises:
        DataError: an argument can't be used; the message names it.
    """
    hparams = getattr(editor, "hparams", None)
    if get_plugins().method_for(hparams) is None:
        return original(editor, *args, **kwargs)
    call = inspect.signature(original).bind(editor, *args, **kwargs)
    arguments = {**call.arguments, **call.arguments.get("kwargs", {})}
    if "prompts" in arguments and "requests" not in arguments:
        _check(arguments)
    if not one_by_one or not hasattr(hparams, "batch_size"):
        return original(editor, *args, **kwargs)
    single = copy.copy(hparams)
    object.__setattr__(single, "batch_size", 1)  # also works on frozen hyperparameters
    with replaced(editor, hparams=single):
        return original(editor, *args, **kwargs)


def _check(arguments: Mapping[str, Any]) -> None:
    """Check the arguments that describe requests.

    Raises:
        DataError: an argument is no text or list, is too long or too short, or one of its entries can't be used.
    """
    lists = {name: _entries(name, arguments[name]) for name in _LISTS if arguments.get(name) is not None}
    lists.setdefault("target_new", [])
    number = len(lists["prompts"])
    for name, entries in lists.items():
        if len(entries) != number:
            raise DataError(f"{name}: there must be one for each prompt, {number}; there are {len(entries)}.")
    rows = zip(*(lists[name] for name in _FIELDS if name in lists), strict=True)
    fields = [field for name, field in _FIELDS.items() if name in lists]
    for index, request in enumerate(as_requests(dict(zip(fields, row, strict=True)) for row in rows)):
        if request.subject is not None and request.subject not in request.prompt:
            raise DataError(f"request {index}, field 'subject': {request.subject!r} is not in {request.prompt!r}")
    for name in ("locality_inputs", "portability_inputs"):
        for key, probes in (arguments.get(name) or {}).items():
            _check_probes(f"{name}[{key!r}]", probes, number)


def _entries(name: str, value: Any) -> list[Any]:
    """Return the entries of an argument that is a text or a list."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise DataError(f"{name}: must be text or a list with one entry for each prompt, not a {type(value).__name__}")
    return value


def _check_probes(name: str, probes: Any, number: int) -> None:
    """Check one set of locality or portability probes: prompts and answers, one entry of each for each request."""
    if not isinstance(probes, Mapping) or not {"prompt", "ground_truth"} <= set(probes):
        raise DataError(f"{name}: must be a dict with the keys 'prompt' and 'ground_truth'")
    for key in ("prompt", "ground_truth"):
        entries = _entries(f"{name}[{key!r}]", probes[key])
        if len(entries) != number:
            raise DataError(f"{name}[{key!r}]: there must be one entry for each prompt, {number}, not {len(entries)}.")
