"""The rollback object that every apply function returns beside the edited model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from easyedit_lifelong.lazy_list import LazyList

Result = TypeVar("Result")


class Rollback(Generic[Result]):
    """Undoes the edits of one call of an apply function.

    EasyEdit restores a model in one of two ways, depending on method and version: it calls this object, or it iterates
    ``.items()`` to copy the original weights back. A call always undoes the edits. Iteration undoes them only with
    ``on_items``, since EasyEdit's release of 2023 also iterates with ``keep_original_weight=False``, where edits must
    stay. To undo the edits a second time does nothing.

    Args:
        undo: restores the model.
        on_items: whether iterating ``.items()`` undoes the edits.
        results: one result per request.

    Attributes:
        results: as given.
    """

    def __init__(self, undo: Callable[[], None], *, on_items: bool, results: Sequence[Result] = ()) -> None:
        self._undo: Callable[[], None] | None = undo
        self._on_items = on_items
        self.results = results if isinstance(results, LazyList) else list(results)

    @property
    def done(self) -> bool:
        """Whether the edits have been undone."""
        return self._undo is None

    def __call__(self) -> None:
        """Undo the edits; at the second call, do nothing."""
        if self._undo is not None:
            self._undo()
            self._undo = None

    def items(self) -> Iterator[tuple[str, Any]]:
        """Undo the edits if ``on_items`` is set. Yield nothing, since the rollback restores the weights itself."""
        if self._on_items:
            self()
        return iter(())
