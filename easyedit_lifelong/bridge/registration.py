"""Add our methods to EasyEdit, once it is imported.

EasyEdit looks a method up by name in one dictionary, ``ALG_DICT``. Under each of our names we put a
function that looks at the type of the hyperparameters: ours go to our method, any other goes to
what was there before, so that a method of the same name that comes with EasyEdit keeps working.
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
from easyedit_lifelong.bridge.easyedit_scoring import wrap_scoring
from easyedit_lifelong.bridge.locate import PACKAGE
from easyedit_lifelong.bridge.wrapping import wrap
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_METHOD = "_easyedit_lifelong_method"


def connect(package: ModuleType) -> None:
    """Register all methods with an imported EasyEdit. Doing it again adds what is new.

    Args:
        package: the imported package ``easyeditor``. One that isn't built like EasyEdit is left
            alone, with a warning: importing it is still its user's good right.

    Raises:
        PluginError: the plugins contradict each other.
    """
    name = package.__name__
    try:
        editor_class = importlib.import_module(f"{name}.editors.editor").BaseEditor
        algorithms = importlib.import_module(f"{name}.util.alg_dict").ALG_DICT
    except (ImportError, AttributeError) as error:
        LOG.warning("%s isn't an EasyEdit that can be extended: %s", getattr(package, "__file__", name), error)
        return
    # EasyEdit main restores after each edit unless told otherwise, and never says so in advance.
    restores = "sequential_edit" in inspect.signature(editor_class.edit).parameters

    def entry(method: EditMethod) -> Callable[..., Any]:
        present = algorithms.get(method.name)
        if getattr(present, _METHOD, None) is not method:
            LOG.debug("registering %s%s", method.name, " beside EasyEdit's own" if present else "")
            algorithms[method.name] = dispatcher(method, present, keep_original_weight=restores)
        return algorithms[method.name]

    for method in get_plugins().methods:
        entry(method)
    _wrap_name_tests(name)
    # A method that is registered later gets its entry when it is first used.
    wrap_constructor(editor_class, entry)
    wrap_scoring(name)


def dispatcher(
    method: EditMethod, original: Callable[..., Any] | None, *, keep_original_weight: bool
) -> Callable[..., Any]:
    """Return the function that stands in ``ALG_DICT`` under a method's name.

    Args:
        method: our method.
        original: what EasyEdit has under that name, if anything.
        keep_original_weight: whether to ask our method for the way back even if EasyEdit doesn't.
            Main always says False and restores all the same; to the 2023 release, False means
            that the edits stay.
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
    return dispatch


def _refuse_batch(name: str, requests: Any) -> None:
    """Keep our ``is_batchable_method`` from handing a batch to EasyEdit's own method of that name.

    Raises:
        EditError: EasyEdit's method would edit the first request and drop the others.
    """
    if isinstance(requests, list) and len(requests) > 1 and not is_batchable(name):
        raise EditError(f"EasyEdit's own {name} edits one request at a time; it was given {len(requests)}.")


def is_batchable(name: str) -> bool:
    """Tell whether EasyEdit's own method of a name takes several requests at once."""
    test = importlib.import_module(f"{PACKAGE}.editors.batch_editor").BatchEditor.is_batchable_method
    return bool(inspect.unwrap(test)(name))


def _wrap_name_tests(package: str) -> None:
    """Have EasyEdit's two lists of names know our methods."""
    for module, cls, test, batchable in (
        ("batch_editor", "BatchEditor", "is_batchable_method", True),
        ("singleton_editor", "SingletonEditor", "is_singleton_method", False),  # the release only
    ):
        try:
            owner = getattr(importlib.import_module(f"{package}.editors.{module}"), cls)
        except ModuleNotFoundError:
            continue
        wrap(owner, test, functools.partial(_is_method, batchable))


def _is_method(batchable: bool, original: Callable[[str], bool], alg_name: str) -> bool:
    methods = get_plugins().methods
    return (alg_name in methods and methods.get(alg_name).batchable is batchable) or original(alg_name)
