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

from easyedit_lifelong.bridge import construction
from easyedit_lifelong.bridge import easyedit_scoring as scoring
from easyedit_lifelong.errors import EditError, HyperParameterError
from easyedit_lifelong.methods.base import EditMethod

LOG = logging.getLogger(__name__)

_MARK = "_easyedit_lifelong"


def connect(package: ModuleType) -> None:
    """Register all methods with an imported EasyEdit. Doing it again adds what is new.

    Args:
        package: the imported package ``easyeditor``. One that isn't built like EasyEdit is left
            alone, with a warning: importing it is still its user's good right.

    Raises:
        PluginError: the plugins contradict each other.
    """
    from easyedit_lifelong.plugins import get_plugins

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
        if getattr(present, _MARK, None) is method:
            return present
        LOG.debug("registering %s%s", method.name, " beside EasyEdit's own" if present else "")
        algorithms[method.name] = dispatcher(method, present, keep_original_weight=restores)
        return algorithms[method.name]

    for method in get_plugins().methods:
        entry(method)
    _wrap_name_tests(name)
    # A method that is registered later gets its entry when it is first used.
    construction.wrap(editor_class, entry)
    scoring.wrap(name)


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

    setattr(dispatch, _MARK, method)
    return dispatch


def _refuse_batch(name: str, requests: Any) -> None:
    """Keep our ``is_batchable_method`` from handing a batch to EasyEdit's own method of that name.

    Raises:
        EditError: EasyEdit's method would edit the first request and drop the others.
    """
    from easyeditor.editors.batch_editor import BatchEditor

    own = getattr(BatchEditor.is_batchable_method, "__wrapped__", BatchEditor.is_batchable_method)
    if isinstance(requests, list) and len(requests) > 1 and not own(name):
        raise EditError(f"EasyEdit's own {name} edits one request at a time; it was given {len(requests)}.")


def _wrap_name_tests(package: str) -> None:
    """Have EasyEdit's two lists of names know our methods."""
    from easyedit_lifelong.plugins import get_plugins

    def answer(original: Callable[[str], bool], batchable: bool) -> Callable[[str], bool]:
        @functools.wraps(original)
        def is_method(alg_name: str) -> bool:
            methods = get_plugins().methods
            ours = alg_name in methods and methods.get(alg_name).batchable is batchable
            return ours or original(alg_name)

        setattr(is_method, _MARK, True)
        return is_method

    for module, cls, test, batchable in (
        ("batch_editor", "BatchEditor", "is_batchable_method", True),
        ("singleton_editor", "SingletonEditor", "is_singleton_method", False),  # the release only
    ):
        try:
            owner = getattr(importlib.import_module(f"{package}.editors.{module}"), cls)
        except ModuleNotFoundError:
            continue
        original = getattr(owner, test)
        if not hasattr(original, _MARK):
            setattr(owner, test, staticmethod(answer(original, batchable)))
