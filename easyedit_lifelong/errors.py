"""Every error this package raises on purpose.

Each class derives from :class:`LifelongError` and from the builtin that fits, so that callers can
catch either. The command line prints their message alone, without a traceback; anything else that
escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LifelongError(Exception):
    """Base class of all errors raised on purpose by this package."""


class HyperParameterError(LifelongError, ValueError):
    """A hyperparameter file or value can't be used."""


class DataError(LifelongError, ValueError):
    """A dataset file or an edit request can't be used."""


class ModelError(LifelongError, ValueError):
    """A model can't be loaded, or lacks the part that was asked for."""


class DeviceError(LifelongError, ValueError):
    """A device was asked for that isn't there."""


class EditError(LifelongError, RuntimeError):
    """An edit failed; the model is as it was before the edit."""


class CovarianceError(LifelongError, ValueError):
    """Second moments can't be collected, or a file of them can't be used."""


class RunError(LifelongError, RuntimeError):
    """A run's folder can't be used."""


class HubError(RunError):
    """The Hugging Face Hub can't be reached, or has no such edits, or refuses them."""


class PluginError(LifelongError, ValueError):
    """A plugin is broken, or two plugins claim the same name."""


class DuplicateNameError(PluginError):
    """Two plugins claim the same name."""


class EasyEditMissingError(LifelongError, ModuleNotFoundError):
    """EasyEdit (``easyeditor``) is needed and isn't there, or can't be imported."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for a mistyped name, ready to append to a message.

    Args:
        name: what the user wrote.
        known: what could have been meant.

    Returns:
        ``" Did you mean 'x'?"`` for the closest known name, else an empty string.
    """
    folded = {str(other).casefold(): str(other) for other in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""
