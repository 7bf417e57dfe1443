"""Register our methods with an imported EasyEdit.

EasyEdit looks up methods by name in the dictionary ``ALG_DICT``. For each of our methods, this module adds a function
that dispatches on the class of the hyperparameters: instances of our class go to our method, all others to EasyEdit's
method of that name, which therefore still works.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from easyedit_lifelong.bridge.construction import wrap_constructor
from easyedit_lifelong.bridge.easyedit_location import PACKAGE
from easyedit_lifelong.bridge.easyedit_scoring import wrap_scoring
from easyedit_lifelong.bridge.edit_calls import wrap_edit_calls
from easyedit_lifelong.bridge.wrapping import wrap
from easyedit_lifelong.errors import EditError, HyperParameterError, PluginError, did_you_mean
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_METHOD = "_easyedit_lifelong_method"
_ORIGINAL = "_easyedit_lifelong_original"


def connect(package: ModuleType) -> None:
    """Register all methods with an imported EasyEdit. A second call registers the methods that are new.

    Args:
        package: the imported package ``easyeditor``. A package without EasyEdit's modules is not changed, with a
            warning.

    Raises:
        PluginError: two plugins register the same name.
    """
    name = package.__name__
    try:
        editor_class = importlib.import_module(f"{name}.editors.editor").BaseEditor
        algorithms = importlib.import_module(f"{name}.util.alg_dict").ALG_DICT
    except (ImportError, AttributeError) as error:
        LOG.warning("%s: this EasyEdit can't be extended: %s", getattr(package, "__file__", name), error)
        return
    # The main branch (only there, edit() has sequential_edit) rolls each edit back by default, even though it calls the
    # method with keep_original_weight=False.
    rolls_back = "sequential_edit" in inspect.signature(editor_class.edit).parameters

    def entry(method: EditMethod) -> Callable[..., Any]:
        """Return the function for a method in ``ALG_DICT``; add it if it is missing."""
        registered = algorithms.get(method.name)
        if getattr(registered, _METHOD, None) is not method:
            LOG.debug("registering %s%s", method.name, " in addition to EasyEdit's own" if registered else "")
            algorithms[method.name] = dispatcher(method, registered, keep_original_weight=rolls_back)
        return algorithms[method.name]

    for method in get_plugins().methods:
        entry(method)
    _wrap_name_tests(name)
    # The constructor adds methods that plugins register later.
    wrap_constructor(editor_class, entry)
    wrap_edit_calls(editor_class)
    wrap_scoring(name)


def dispatcher(
    method: EditMethod, original: Callable[..., Any] | None, *, keep_original_weight: bool
) -> Callable[..., Any]:
    """Return the function for a method's name in ``ALG_DICT``.

    Args:
        method: our method.
        original: EasyEdit's function of that name, if there is one.
        keep_original_weight: whether to make our method return the information for a rollback, whatever EasyEdit
            passes. The main branch passes False and rolls back all the same; in the 2023 release, False means that the
            edits stay.
    """

    def dispatch(model: Any, tok: Any, requests: Any, hparams: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(hparams, method.hparams_class):
            if keep_original_weight:
                kwargs["keep_original_weight"] = True
            return method.apply(model, tok, requests, hparams, *args, **kwargs)
        if original is None:
            raise HyperParameterError(
                f"{method.name}: the hyperparameters must be a {method.hparams_class.__name__}, "
                f"not a {type(hparams).__name__}. Load them with "
                f"{method.hparams_class.__name__}.from_hparams(…)."
            )
        _refuse_batch(method.name, requests)
        return original(model, tok, requests, hparams, *args, **kwargs)

    setattr(dispatch, _METHOD, method)
    setattr(dispatch, _ORIGINAL, original)
    return dispatch


def own_function(name: str) -> Callable[..., Any]:
    """Return the apply function of one of EasyEdit's own methods, also if we have a method of that name.

    Args:
        name: the method's name in EasyEdit, which must be imported.

    Raises:
        PluginError: EasyEdit has no such method.
    """
    algorithms = importlib.import_module(f"{PACKAGE}.util.alg_dict").ALG_DICT
    function = _behind_dispatchers(algorithms.get(name))
    if function is None:
        raise PluginError(f"EasyEdit has no method {name!r}.{did_you_mean(name, algorithms)}")
    return function


def _behind_dispatchers(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return EasyEdit's function behind an entry of ``ALG_DICT``; None if only we have a method of that name."""
    while hasattr(function, _ORIGINAL):
        function = getattr(function, _ORIGINAL)
    return function


def _refuse_batch(name: str, requests: Any) -> None:
    """Refuse a batch for an own method of EasyEdit that edits one request at a time.

    The wrapped ``is_batchable_method`` returns True if our method of that name is batchable.

    Raises:
        EditError: EasyEdit's method would edit the first request and ignore the others.
    """
    if isinstance(requests, list) and len(requests) > 1 and not is_batchable(name):
        raise EditError(f"EasyEdit's own {name} edits one request at a time; it was given {len(requests)}.")


def is_batchable(name: str) -> bool:
    """Return whether EasyEdit's own method of a name edits several requests at once."""
    is_batchable_method = importlib.import_module(f"{PACKAGE}.editors.batch_editor").BatchEditor.is_batchable_method
    return bool(inspect.unwrap(is_batchable_method)(name))


def _wrap_name_tests(package: str) -> None:
    """Make EasyEdit's tests for batchable and for single-edit methods return True for our methods, too."""
    for module, cls, name_test, batchable in (
        ("batch_editor", "BatchEditor", "is_batchable_method", True),
        ("singleton_editor", "SingletonEditor", "is_singleton_method", False),  # the release only
    ):
        try:
            owner = getattr(importlib.import_module(f"{package}.editors.{module}"), cls)
        except ModuleNotFoundError:
            continue
        wrap(owner, name_test, functools.partial(_is_method, batchable))


def _is_method(batchable: bool, original: Callable[[str], bool], alg_name: str) -> bool:
    """Return whether a name is one of our methods that is (not) batchable, or passes EasyEdit's own test."""
    methods = get_plugins().methods
    return (alg_name in methods and methods.get(alg_name).batchable is batchable) or original(alg_name)
