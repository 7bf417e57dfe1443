"""The errors that this package raises for wrong input and failed edits.

Each class derives from :class:`LifelongError` and from a matching built-in exception, so that callers can catch either.
The command line prints only their message. Any other exception is a bug and is shown with its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LifelongError(Exception):
    """Base class of all errors that this package raises with a message for the user."""


class HyperParameterError(LifelongError, ValueError):
    """A hyperparameter file or value can't be used."""


class DataError(LifelongError, ValueError):
    """A dataset file or an edit request can't be used."""


class ModelError(LifelongError, ValueError):
    """A model can't be loaded, or lacks a required part."""


class DeviceError(LifelongError, ValueError):
    """The requested device doesn't exist."""


class EditError(LifelongError, RuntimeError):
    """An edit failed; the model is unchanged by it."""


class CovarianceError(LifelongError, ValueError):
    """Second moments can't be collected, or a file of them can't be used."""


class RunError(LifelongError, RuntimeError):
    """A run's folder can't be used."""


class HubError(RunError):
    """The Hugging Face Hub can't be reached, has no such edits, or refuses a request."""


class PluginError(LifelongError, ValueError):
    """A plugin is broken, or two plugins claim the same name."""


class DuplicateNameError(PluginError):
    """Two plugins claim the same name."""


class UnusableMethodError(PluginError):
    """EasyEdit has a method of this name, but it can't run in this package's loops."""


class EasyEditMissingError(LifelongError, ModuleNotFoundError):
    """EasyEdit (``easyeditor``) is required but isn't installed, or can't be imported."""


class NotLearnedWarning(UserWarning):
    """An edit was made, but the model does not give its target."""


def reason_of(error: Exception) -> str:
    """Return an error's message in one line; with its type if it is no error of this package."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LifelongError) else f"{type(error).__name__}: {text}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for a mistyped name, ready to append to a message.

    Args:
        name: the name that the user wrote.
        known: the valid names.

    Returns:
        ``" Did you mean 'x'?"`` for the closest known name, else an empty string.
    """
    by_folded = {str(candidate).casefold(): str(candidate) for candidate in known if candidate}
    matches = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" Did you mean {by_folded[matches[0]]!r}?" if matches else ""
