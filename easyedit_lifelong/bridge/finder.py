"""An import hook for ``easyeditor`` and its submodules. It rewrites their source and handles missing packages."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from easyedit_lifelong.bridge import easyedit_location, placeholders
from easyedit_lifelong.bridge.rewrite import RUNTIME, defined_names, rewrite

LOG = logging.getLogger(__name__)

# All methods need these modules, so an error in one of them is raised at once. Any other module serves some methods
# only; its error is raised when one of them is used.
_CORE = [
    "dataset",
    "editors",
    "editors.editor",
    "editors.batch_editor",
    "evaluate",
    "evaluate.evaluate",
    "evaluate.evaluate_utils",
    "models",
    "util",
    "util.alg_dict",
    "util.hparams",
    "util.nethook",
]


def install() -> None:
    """Install the import hook, so that ``import easyeditor`` works and registers our methods.

    If EasyEdit is imported already, our methods are registered at once; its modules are not rewritten. A second call
    does nothing.
    """
    if not any(isinstance(finder, EasyEditFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, EasyEditFinder())
    module = sys.modules.get(easyedit_location.PACKAGE)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        _connect(module)


class EasyEditFinder(easyedit_location.BridgeFinder, MetaPathFinder):
    """Finds EasyEdit with Python's other finders, and replaces the loader by :class:`EasyEditLoader`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of a module of EasyEdit, with our loader; None for any other module.

        Raises:
            EasyEditMissingError: an import statement imports EasyEdit, but it isn't installed.
        """
        if fullname.partition(".")[0] != easyedit_location.PACKAGE:
            return None
        spec = easyedit_location.find_spec(fullname, path, target)
        if spec is None:
            if fullname == easyedit_location.PACKAGE and _is_import_statement():
                raise easyedit_location.missing_error()
            return None
        # Only this exact type: our loader can't replace a subclass, which does more.
        if type(spec.loader) is SourceFileLoader:
            spec.loader = EasyEditLoader(spec.loader.name, spec.loader.path)
            spec.cached = None  # keeps the rewritten code out of __pycache__
        return spec


class EasyEditLoader(SourceFileLoader):
    """Executes the rewritten source of a module. If a module outside the core fails, its names become placeholders."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the rewritten source; don't read or write compiled files."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        """Rewrite and compile a module's source."""
        with warnings.catch_warnings():
            # Without compiled files, Python would warn of EasyEdit's invalid escape sequences at every import.
            warnings.simplefilter("ignore")
            return compile(rewrite(data, str(path)), path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; if a module that only some methods need fails, replace its names by placeholders.

        Raises:
            EasyEditMissingError: EasyEdit's package itself can't be imported.
        """
        from easyedit_lifelong.bridge.runtime import Runtime

        name = module.__name__
        module.__dict__[RUNTIME] = Runtime(module.__dict__)
        try:
            with placeholders.importing():
                super().exec_module(module)
        except Exception as error:  # EasyEdit with newer packages can raise anything
            if name == easyedit_location.PACKAGE:
                folder = getattr(module, "__file__", None)
                detail = f"{type(error).__name__}: {error}"
                raise easyedit_location.missing_error(
                    f"EasyEdit was found ({folder}) but can't be imported: {detail}"
                ) from error
            if name.partition(".")[2] in _CORE:
                raise
            self._define_placeholders(module, error)
        if name == easyedit_location.PACKAGE:
            _connect(module)

    def _define_placeholders(self, module: ModuleType, error: Exception) -> None:
        """Define the names of a module that failed as placeholders, which raise its error when they are used."""
        name = module.__name__
        LOG.info("%s can't be imported; methods that use it will raise an error: %s", name, error)

        def placeholder(attribute: str) -> placeholders.Placeholder:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return placeholders.for_failed_module(name, attribute, error)

        with contextlib.suppress(SyntaxError):
            for attribute in defined_names(self.get_data(self.get_filename(name))):
                if attribute not in module.__dict__:
                    module.__dict__[attribute] = placeholder(attribute)
        module.__dict__["__getattr__"] = placeholder


def _connect(module: ModuleType) -> None:
    """Register our methods with an imported EasyEdit."""
    from easyedit_lifelong.bridge.registration import connect

    connect(module)


def _is_import_statement() -> bool:
    """Return whether the finder was called by an import statement, not by ``importlib.util.find_spec``.

    ``find_spec`` must return None for a missing package, while an import should raise our error. Python calls the
    finder in the same way for both; only the caller's stack frame differs. If the frame is not the known one, return
    False; an import then fails with Python's own message.
    """
    try:
        return sys._getframe(3).f_code.co_name == "_find_and_load_unlocked"
    except ValueError:
        return False
