"""Stand in front of the import system for ``easyeditor`` and its submodules, and for nothing else."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from easyedit_lifelong.bridge import locate, placeholders
from easyedit_lifelong.bridge.rewrite import RUNTIME, defined_names, rewrite

LOG = logging.getLogger(__name__)

# Without these there is no editing at all, so their failure must show at once. Any other module
# serves some methods only, and those who use none of them needn't know.
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
    """Make EasyEdit importable here, with our methods in it, from the next import on.

    If EasyEdit is imported already, our methods are added at once; its modules then stay as they
    are. Calling it again does nothing.
    """
    if not any(isinstance(finder, EasyEditFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, EasyEditFinder())
    module = sys.modules.get(locate.PACKAGE)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        _connect(module)


class EasyEditFinder(locate.BridgeFinder, MetaPathFinder):
    """Finds EasyEdit through the other finders, and has its source rewritten."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the module's spec with our loader in it; None for what isn't EasyEdit's.

        Raises:
            EasyEditMissingError: an import statement asks for EasyEdit, and it isn't there.
        """
        if fullname.partition(".")[0] != locate.PACKAGE:
            return None
        spec = locate.find_spec(fullname, path, target)
        if spec is None:
            if fullname == locate.PACKAGE and _is_import_statement():
                raise locate.missing_error()
            return None
        # Exactly this type: any other loader does something that ours would not.
        if type(spec.loader) is SourceFileLoader:
            spec.loader = EasyEditLoader(spec.loader.name, spec.loader.path)
            spec.cached = None  # the rewritten code must not land in __pycache__
        return spec


class EasyEditLoader(SourceFileLoader):
    """Executes a module's rewritten source, and keeps a module that can't be executed from spreading."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Compile the rewritten source. Compiled files are neither read nor written."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        """Rewrite and compile a module's source."""
        with warnings.catch_warnings():
            # "invalid escape sequence": Python says so once, as it writes compiled files; we'd each time.
            warnings.simplefilter("ignore")
            return compile(rewrite(data, str(path)), path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, or, if it serves some methods only and can't be, replace its names.

        Raises:
            EasyEditMissingError: EasyEdit as a whole can't be imported.
        """
        from easyedit_lifelong.bridge.runtime import Runtime

        name = module.__name__
        module.__dict__[RUNTIME] = Runtime(module.__dict__)
        try:
            with placeholders.importing():
                super().exec_module(module)
        except Exception as error:  # old code on new packages: anything can come out of it
            if name == locate.PACKAGE:
                folder = getattr(module, "__file__", None)
                detail = f"{type(error).__name__}: {error}"
                raise locate.missing_error(f"EasyEdit was found ({folder}) but can't be imported: {detail}") from error
            if name.partition(".")[2] in _CORE:
                raise
            self._replace_names(module, error)
        if name == locate.PACKAGE:
            _connect(module)

    def _replace_names(self, module: ModuleType, error: Exception) -> None:
        name = module.__name__
        LOG.info("%s can't be imported here; what needs it will say so: %s", name, error)

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
    from easyedit_lifelong.bridge.registration import connect

    connect(module)


def _is_import_statement() -> bool:
    """Tell an import from a question (``importlib.util.find_spec``), which must get None for an answer.

    The import system asks finders in the same way for both; only the frame behind it differs. Where
    that looks unfamiliar the answer is no, and an import fails with Python's own message.
    """
    try:
        return sys._getframe(3).f_code.co_name == "_find_and_load_unlocked"
    except ValueError:
        return False
