"""Whether a served model still gives the targets of its latest edits, asked again only where further edits act."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.serving.measured_edits import MeasuredEdit, MeasuredEdits

RECENT = 16
"""How many of the latest edits are compared before and after an edit."""


class RecentEdits:
    """Whether a model gives the targets of edits, as it was at the latest measurement.

    Args:
        model: the model that is edited.
        tokenizer: its tokenizer.
        method: the method of the edits. If it has no ``watch_answers``, the model is asked about all edits each time.
        measured: asks the model.
    """

    def __init__(self, model: Any, tokenizer: Any, method: EditMethod, measured: MeasuredEdits) -> None:
        self._model, self._tokenizer, self._method, self._measured = model, tokenizer, method, measured
        self._watches: dict[str, Callable[[], Hashable]] = {}
        self._given: dict[str, tuple[Hashable, bool]] = {}

    def use(self, model: Any) -> None:
        """Continue with another model, which has the same weights. What was measured stays known."""
        if model is not self._model:
            self._model = model
            self._watches.clear()  # they read the codebook of the other model

    def given(self, edits: Sequence[MeasuredEdit]) -> dict[str, bool]:
        """Return whether the model gives the target of each edit, by the edit's id; ask it where that is not known."""
        unknown = [edit for edit in edits if edit.id not in self._given]
        if unknown:
            self.measure(edits)
        return {edit.id: self._given[edit.id][1] for edit in edits}

    def measure(self, edits: Sequence[MeasuredEdit], known: Mapping[str, bool] | None = None) -> dict[str, bool]:
        """Return the same after the model has changed. Only these edits are known afterwards.

        Args:
            edits: the edits.
            known: what the changed model gives, where that is known already.
        """
        known = known or {}
        self._watch(edits)
        acting = {edit.id: self._watches[edit.id]() for edit in edits}
        changed = [edit for edit in edits if edit.id not in known and self._has_changed(edit, acting[edit.id])]
        answered = self._measured.answered(self._model, changed) if changed else {}
        given = {name: given for name, (_, given) in self._given.items()} | answered | dict(known)
        self._given = {edit.id: (acting[edit.id], given[edit.id]) for edit in edits}
        return {edit.id: given[edit.id] for edit in edits}

    def _has_changed(self, edit: MeasuredEdit, acting: Hashable) -> bool:
        """Return whether the answer to an edit's prompt is not known, or can have changed since it was measured."""
        return edit.id not in self._given or self._given[edit.id][0] != acting

    def forget(self) -> None:
        """Forget what was measured: the model has changed and was not measured."""
        self._given.clear()

    def _watch(self, edits: Sequence[MeasuredEdit]) -> None:
        """Watch these edits, and no others."""
        new = [edit for edit in edits if edit.id not in self._watches]
        self._watches = {edit.id: self._watches[edit.id] for edit in edits if edit.id in self._watches}
        if self._method.watch_answers is None:
            self._watches |= {edit.id: object for edit in new}  # a new object at each call
        elif new:
            questions = self._measured.questions(new)
            watches = self._method.watch_answers(self._model, self._tokenizer, questions)
            self._watches |= dict(zip((edit.id for edit in new), watches, strict=True))
