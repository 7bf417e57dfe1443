"""What the apply functions of the editors share."""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback


class Editor(Protocol):
    """Edits a model that it is on."""

    def edit(self, requests: Sequence[EditRequest]) -> tuple[list[EditResult], Callable[[], None]]:
        """Apply requests, all or none; return what was done per request, and what undoes it."""


def apply_with(
    on: Callable[[Any], Editor], model: Any, requests: Sequence[Any], *, copy: bool, keep_original_weight: bool
) -> tuple[Any, Rollback[EditResult]]:
    """Apply requests with the editor that is on a model, or on a copy of it.

    Args:
        on: returns a model's editor, putting one on it if need be.
        model: the model.
        requests: requests in EasyEdit's fields, or :class:`EditRequest` objects.
        copy: edit a copy of the model instead.
        keep_original_weight: whether walking the rollback's ``.items()`` undoes the edits.

    Raises:
        DataError: a request can't be used, or there are none.
        EditError: an edit failed.
    """
    valid = as_requests(requests)
    if not valid:
        raise DataError("there are no requests to edit")
    if copy:
        model = copying.deepcopy(model)
    results, undo = on(model).edit(valid)
    return model, Rollback(undo, on_items=keep_original_weight, results=results)


def check_continues(carried: str, before: Any, now: Any, names: Sequence[str], remedy: str) -> None:
    """Check that new edits share the settings of those that a model carries.

    Args:
        carried: what carries edits, for the message.
        before: the hyperparameters of the edits in place.
        now: those of the new ones.
        names: the settings that must be the same.
        remedy: what to do otherwise.

    Raises:
        EditError: one differs.
    """
    for name in names:
        then, new = getattr(before, name), getattr(now, name)
        if then != new:
            raise EditError(
                f"{carried} made with {name}={then!r}; they can't be continued with {name}={new!r}. {remedy}"
            )
