"""Placeholders for names that EasyEdit's modules can't import because a package isn't installed.

EasyEdit imports the packages of all its methods at once. With a placeholder in place of a missing package, the import
succeeds, and methods that don't need the package work. A placeholder can be named, subclassed and used in annotations;
any other use raises an error that names the package to install. Placeholders are only in the namespaces of EasyEdit's
modules, never in ``sys.modules``, so other code still sees that the package is missing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NoReturn

from easyedit_lifelong.errors import LifelongError

# The name to install, where it differs from the name to import.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "hydra": "hydra-core",
    "qwen_vl_utils": "qwen-vl-utils",
    "sentence_transformers": "sentence-transformers",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}

_MULTIMODAL = "EasyEdit's multimodal editing"
# The part of EasyEdit that needs a package, if only one part needs it.
_NEEDED_BY = {
    "PIL": _MULTIMODAL,
    "av": _MULTIMODAL,
    "bitsandbytes": "EasyEdit's QLoRA",
    "cv2": _MULTIMODAL,
    "einops": "EasyEdit's KN",
    "fairscale": _MULTIMODAL,
    "higher": "EasyEdit's MEND",
    "iopath": _MULTIMODAL,
    "nltk": "EasyEdit's fluency score (test_generation=True)",
    "omegaconf": "EasyEdit's trainers (MEND, SERAC, MALMEN)",
    "openai": "EasyEdit's FT-Api and its LLM judge",
    "peft": "EasyEdit's LoRA, QLoRA and DPO",
    "qwen_vl_utils": _MULTIMODAL,
    "sentence_transformers": "EasyEdit's IKE",
    "timm": _MULTIMODAL,
    "torchvision": _MULTIMODAL,
    "zhipuai": "EasyEdit's DeepEdit-Api",
}


class MissingPackageError(LifelongError, ImportError):
    """A part of EasyEdit was used that needs a package which isn't installed, or can't be imported.

    Attributes:
        package: the top-level module that is missing, or None if the cause is another.
    """

    def __init__(self, message: str, package: str | None = None) -> None:
        super().__init__(message, name=package)
        self.package = package


class _ImportState(threading.local):
    depth = 0


_STATE = _ImportState()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Mark that a module of EasyEdit is being executed in this thread; no placeholder raises an error meanwhile.

    While EasyEdit's modules are imported, they call placeholders as decorators and read their attributes. The result is
    then another placeholder.
    """
    _STATE.depth += 1
    try:
        yield
    finally:
        _STATE.depth -= 1


class Placeholder:
    """Stands in for a name that can't be imported.

    Args:
        name: the full name, such as ``"higher.patch.monkeypatch"``.
        reason: the cause and the remedy, for the message of the error that using the placeholder raises.
        package: the top-level module that is missing, if that is the cause.
    """

    def __init__(self, name: str, reason: str, package: str | None = None) -> None:
        # Written to __dict__, since __setattr__ raises. The names can't collide with attributes of the missing object.
        self.__dict__.update({"__name__": name, "__qualname__": name, "_reason": reason, "_package": package})

    def __repr__(self) -> str:
        return f"<placeholder for {self.__dict__['__name__']}>"

    def __getattr__(self, name: str) -> Any:
        # Introspection (inspect, typing, pickle) reads dunder names and expects AttributeError.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._use(name)

    def __setattr__(self, name: str, _: Any) -> None:
        self._use(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise the error, unless a module of EasyEdit is being imported."""
        return self._use("()")

    def __getitem__(self, _: Any) -> Any:
        return self._use("[]")

    def __or__(self, _: Any) -> Any:  # an annotation: X | None
        return self

    __ror__ = __or__

    def _fail(self, *_: Any) -> NoReturn:
        """Raise the error that names the missing package."""
        name, reason, package = (self.__dict__[key] for key in ("__name__", "_reason", "_package"))
        raise MissingPackageError(f"{name} can't be used: {reason}", package)

    __iter__ = __enter__ = __exit__ = _fail

    def __instancecheck__(self, _: Any) -> bool:
        return False  # there are no instances of a missing class

    __subclasscheck__ = __instancecheck__

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[type, ...]:
        return (_missing_base(self),)

    def _use(self, part: str) -> Any:
        """Return a placeholder for an attribute, a call or an item while EasyEdit is imported, else raise the error."""
        if not _STATE.depth:
            self._fail()
        name = self.__dict__["__name__"] + (part if part in {"()", "[]"} else f".{part}")
        return Placeholder(name, self.__dict__["_reason"], self.__dict__["_package"])


def _missing_base(placeholder: Placeholder) -> type:
    """Return a base class for subclasses of a missing class; making an instance uses the placeholder."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        return placeholder(*args, **kwargs)  # a placeholder while importing, else an error

    name = placeholder.__dict__["__name__"].rpartition(".")[2]
    return type(f"Missing_{name}", (), {"__new__": refuse, "__doc__": repr(placeholder)})


def for_import(module: str, name: str | None, error: BaseException) -> Placeholder:
    """Return the placeholder for a name that an import statement of EasyEdit failed to import.

    Args:
        module: the module in the statement.
        name: the name to import from the module; None for the module itself.
        error: the error of the import.
    """
    full_name = f"{module}.{name}" if name else module
    package = module.partition(".")[0]
    needed_by = f" {_NEEDED_BY[package]} needs it." if package in _NEEDED_BY else ""
    # Not always the package of this statement: a package can lack one of its requirements. And a missing
    # "transformers.old" doesn't mean that transformers is missing.
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing and "." not in missing:
        distribution = _DISTRIBUTIONS.get(missing, missing)
        reason = f"the package {missing!r} isn't installed.{needed_by} Run: pip install {distribution}"
        return Placeholder(full_name, reason, missing)
    if isinstance(error, ImportError):
        reason = (
            f"{_installed(package)} doesn't provide it ({_first_line(error)}). This part of EasyEdit was "
            f"written for another version of {_DISTRIBUTIONS.get(package, package)!r}.{needed_by}"
        )
    else:
        reason = f"importing {module!r} failed: {type(error).__name__}: {_first_line(error)}.{needed_by}"
    return Placeholder(full_name, reason, package)


def for_failed_module(module: str, name: str, error: BaseException) -> Placeholder:
    """Return the placeholder for a name of a module of EasyEdit that can't be imported."""
    package = error.package if isinstance(error, MissingPackageError) else None
    reason = f"the module {module} can't be imported here: {type(error).__name__}: {_first_line(error)}"
    return Placeholder(f"{module}.{name}", reason, package)


def _installed(package: str) -> str:
    """Return the installed distribution of a package with its version, for messages."""
    distribution = _DISTRIBUTIONS.get(package, package)
    try:
        return f"the installed {distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return f"the installed {distribution}"


def _first_line(error: BaseException) -> str:
    """Return the first line with text of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
