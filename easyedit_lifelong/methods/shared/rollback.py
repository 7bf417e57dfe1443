"""What every apply function returns beside the edited model: the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Rollback(Generic[Result]):
    """Undoes one call of an apply function, in whichever way EasyEdit asks for it.

    EasyEdit's restore code takes one of two forms, by method and version: it calls the object
    (always undoes), or it walks ``.items()`` to copy weights back. The 2023 release means by
    ``keep_original_weight=False`` that edits stay, and expresses it through an empty dictionary; so
    walking undoes only if the caller asked to keep the way back. Either is idempotent.

    Args:
        undo: what restores the model.
        on_items: whether walking ``.items()`` undoes.
        results: what was done, one per request.
    """

    def __init__(self, undo: Callable[[], None], *, on_items: bool, results: Sequence[Result] = ()) -> None:
        self._undo: Callable[[], None] | None = undo
        self._on_items = on_items
        self.results = list(results)

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
        """Undo the edits if the caller asked for it. Yield no weights: the rollback restores them itself."""
        if self._on_items:
            self()
        return iter(())
