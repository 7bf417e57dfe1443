"""What stands in, inside EasyEdit's modules, for a package that isn't installed.

EasyEdit imports everything that any of its methods needs, at once. A placeholder lets the import
go through for those who use another method: it may be named, subclassed and used in annotations.
Using it is an error that says which package to install. Placeholders live in the namespaces of
EasyEdit's modules only and never in ``sys.modules``, so that nobody else is misled.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NoReturn

from easyedit_lifelong.errors import LifelongError

# What to install where the name differs from the module's.
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
# Who needs a package, where it is one thing that needs it.
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
    """Something of EasyEdit was used that needs a package which isn't installed.

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
    """Mark that a module of EasyEdit executes, in this thread: placeholders are lenient inside.

    EasyEdit's modules decorate, annotate and build objects while they are imported. That is no use
    of a missing package yet, so it yields further placeholders.
    """
    _STATE.depth += 1
    try:
        yield
    finally:
        _STATE.depth -= 1


class Placeholder:
    """Stands in for a name that can't be imported.

    Args:
        name: the full name, e.g. ``"higher.patch.monkeypatch"``.
        reason: the whole message of the error that using it raises, without its first sentence.
        package: the top-level module that is missing, if that is the cause.
    """

    def __init__(self, name: str, reason: str, package: str | None = None) -> None:
        # Not plain names: __getattr__ must not have to tell them from those of the real thing.
        self.__dict__.update({"__name__": name, "__qualname__": name, "_reason": reason, "_package": package})

    def __repr__(self) -> str:
        return f"<placeholder for {self.__dict__['__name__']}>"

    def __getattr__(self, name: str) -> Any:
        # Introspection (inspect, typing, pickle) asks for dunder names and takes no for an answer.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._use(name)

    def __setattr__(self, name: str, _: Any) -> None:
        self._use(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fail, unless a module of EasyEdit is being imported."""
        return self._use("()")

    def __getitem__(self, _: Any) -> Any:
        return self._use("[]")

    def __or__(self, _: Any) -> Any:  # an annotation: X | None
        return self

    __ror__ = __or__

    def _fail(self, *_: Any) -> NoReturn:
        name, reason, package = (self.__dict__[key] for key in ("__name__", "_reason", "_package"))
        raise MissingPackageError(f"{name} can't be used: {reason}", package)

    __iter__ = __enter__ = __exit__ = _fail

    def __instancecheck__(self, _: Any) -> bool:
        return False  # nothing can be an instance of a class that isn't there

    __subclasscheck__ = __instancecheck__

    def __mro_entries__(self, _: tuple[Any, ...]) -> tuple[type, ...]:
        return (_missing_base(self),)

    def _use(self, part: str) -> Any:
        if not _STATE.depth:
            self._fail()
        name = self.__dict__["__name__"] + (part if part in {"()", "[]"} else f".{part}")
        return Placeholder(name, self.__dict__["_reason"], self.__dict__["_package"])


def _missing_base(placeholder: Placeholder) -> type:
    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        return placeholder(*args, **kwargs)  # a placeholder while importing, else an error

    name = placeholder.__dict__["__name__"].rpartition(".")[2]
    return type(f"Missing_{name}", (), {"__new__": refuse, "__doc__": repr(placeholder)})


def for_import(module: str, name: str | None, error: BaseException) -> Placeholder:
    """Return the placeholder for what an import statement of EasyEdit's failed to import.

    Args:
        module: the module that the statement names.
        name: the name it takes from there, if any.
        error: why it failed.
    """
    full_name = f"{module}.{name}" if name else module
    package = module.partition(".")[0]
    who = f" {_NEEDED_BY[package]} needs it." if package in _NEEDED_BY else ""
    # A missing "transformers.old" isn't a missing transformers; a package may lack one of its own needs.
    absent = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if absent and "." not in absent:
        reason = f"the package {absent!r} isn't installed.{who} Run: pip install {_DISTRIBUTIONS.get(absent, absent)}"
        return Placeholder(full_name, reason, absent)
    if isinstance(error, ImportError):
        reason = (
            f"{_installed(package)} doesn't provide it ({_first_line(error)}). This part of EasyEdit was "
            f"written for another version of {_DISTRIBUTIONS.get(package, package)!r}.{who}"
        )
    else:
        reason = f"importing {module!r} failed: {type(error).__name__}: {_first_line(error)}.{who}"
    return Placeholder(full_name, reason, package)


def for_failed_module(module: str, name: str, error: BaseException) -> Placeholder:
    """Return the placeholder for a name that a module of EasyEdit would define, had it not failed."""
    package = error.package if isinstance(error, MissingPackageError) else None
    reason = f"the module {module} can't be imported here: {type(error).__name__}: {_first_line(error)}"
    return Placeholder(f"{module}.{name}", reason, package)


def _installed(package: str) -> str:
    distribution = _DISTRIBUTIONS.get(package, package)
    try:
        return f"the installed {distribution} {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return f"the installed {distribution}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
