"""The edit store of CoachHook: adds the folders of version 0.1, and the export to plain weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from easyedit_lifelong.methods.base import PlainWeights
from easyedit_lifelong.methods.coachhook import old_state
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.state import BatchUpdate
from easyedit_lifelong.methods.edit_stores import OldState
from easyedit_lifelong.methods.weight_updates.store import BatchStore

_LOST = (
    "CoachHook's hook layers, which decide for each token whether the edits are in scope. In plain weights, the "
    "updates act at every token, as with wohk. Answers that no edit is about change, too, and more of them with more "
    "edits (locality falls)."
)


class CoachHookStore(BatchStore[BatchUpdate]):
    """Saves and loads the batches of CoachHook; see :class:`BatchStore`."""

    old_state_files = old_state.FILES
    shown_columns: ClassVar[Mapping[str, str]] = {"alpha of each layer": "alphas"}

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the batches of a state folder that version 0.1 wrote; None if it is not a CoachHook run's."""
        return old_state.read_old_state(folder, case_ids, tensors=tensors)

    def plain_weights(self, model: Any) -> PlainWeights:
        """Return W + ΔW of the edited projections; no weights with ``wohk``, which has changed the model's own."""
        editor = coachhook_editor(model)
        return PlainWeights() if editor.hparams.wohk else PlainWeights(editor.plain_weights(), _LOST)
