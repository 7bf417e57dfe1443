"""The errors of changing and using a live model's edits."""

from __future__ import annotations

from easyedit_lifelong.errors import EditError


class NotServableError(EditError):
    """The model could not be restored after a failure, so it can't answer any more."""


class NoSuchEditError(EditError):
    """There is no edit of this id, or it has been removed already."""


class NotRemovableError(EditError):
    """The method can't remove a single edit."""
