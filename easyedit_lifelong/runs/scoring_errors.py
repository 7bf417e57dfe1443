"""Errors while a run scores its edits: those of other people's code name it and the record, and say how to continue."""

from __future__ import annotations

import contextlib
import itertools
import os
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers

import easyedit_lifelong
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import PluginError
from easyedit_lifelong.evaluation.questions import Questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugin_guards import is_no_mistake, place_in
from easyedit_lifelong.plugins import BUILT_IN, get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.runs.run_folder import RunFolder

_TORCH, *_OTHERS = (
    os.path.dirname(module.__file__ or "") + os.sep for module in (torch, transformers, easyedit_lifelong)
)

_MAX_TRIED = 200
"""How many requests are scored one by one to find the one that fails."""


@contextlib.contextmanager
def named_scoring_errors(
    method: EditMethod, scorer: Scorer, model: Any, requests: Sequence[EditRequest], folder: RunFolder | None
) -> Iterator[None]:
    """Name what fails in the context, if it is code of an installed plugin or of EasyEdit: its hooks run in the model.

    An error passes unchanged if the model was edited by a method of this package: then it is a mistake of the package.

    Args:
        method: the method that has edited the model.
        scorer: the scorer that runs the model.
        model: the edited model.
        requests: the requests that are scored.
        folder: the run's folder, if it has one.

    Raises:
        PluginError: a judge, a tracker or the method's numbers of a plugin fail, or the edited model does. The message
            names the plugin, the request and, where they are known, file and line, and says how to continue the run.
    """
    advice = f". {folder.advice_after_error()}" if folder is not None else ""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{error}{advice}") from error
    except Exception as error:  # hooks of other people's methods can raise anything
        origin = _origin(method)
        if is_no_mistake(error) or origin is None:
            raise
        place = _place(error)
        raise PluginError(
            f"{origin}: the model that it has edited fails when {_scored(scorer, model, requests)} scored: "
            f"{type(error).__name__}: {' '.join(str(error).split())}{f' ({place})' if place else ''}{advice}"
        ) from error


def _origin(method: EditMethod) -> str | None:
    """Return a method with the plugin that it comes from, for messages; None if it is one of this package."""
    methods = get_plugins().methods
    if method.name not in methods or methods.get(method.name).hparams_class is not method.hparams_class:
        return f"EasyEdit's method {method.name!r}"
    plugin = methods.origin(method.name)
    return None if plugin in BUILT_IN else f"plugin {plugin!r}, editing method {method.name!r}"


def _scored(scorer: Scorer, model: Any, requests: Sequence[EditRequest]) -> str:
    """Return the request whose questions make a model fail, with a verb; or the number of all, if none is found."""
    for request in requests[:_MAX_TRIED]:
        try:
            scorer.forced(model, Questions.about([request]).all())
        except Exception as error:  # as above
            if is_no_mistake(error):
                raise
            return f"{request.where} is"
    return f"{counted(len(requests), 'record')} {'is' if len(requests) == 1 else 'are'}"


def _place(error: BaseException) -> str:
    """Return file and line of the code that failed in a hook of the model; empty if no hook did."""
    frames = traceback.extract_tb(error.__traceback__)
    in_model = itertools.dropwhile(lambda frame: not frame.filename.startswith(_TORCH), frames)
    return place_in([frame for frame in in_model if not frame.filename.startswith((_TORCH, *_OTHERS))])
