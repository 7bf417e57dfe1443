"""CoachHook's batches as data: what version 0.1 wrote, and what plain weights lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from easyedit_lifelong.methods.base import PlainWeights
from easyedit_lifelong.methods.coachhook import old_state
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.state import BatchUpdate
from easyedit_lifelong.methods.edit_stores import OldState
from easyedit_lifelong.methods.locate_edit.store import BatchStore

_LOST = (
    "CoachHook's hook layers, which decided at every token whether the edits are in scope. In plain weights the "
    "updates act at every token, as with wohk: what no edit is about changes, too, and the more so the more edits "
    "there are (locality falls)."
)


class CoachHookStore(BatchStore[BatchUpdate]):
    """Saves and loads CoachHook's batches; see :class:`BatchStore`."""

    old_state_files = old_state.FILES
    settings = ("alpha_z", "scope_score", "z_tokens", "wohk")
    shown: ClassVar[Mapping[str, str]] = {"alpha of each layer": "alphas"}

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the batches of a state folder that version 0.1 wrote; None if it isn't one of CoachHook's."""
        return old_state.read_old_state(folder, case_ids, tensors=tensors)

    def plain_weights(self, model: Any) -> PlainWeights:
        """Return W + ΔW of the edited projections; nothing where ``wohk`` has put them into the weights already."""
        editor = coachhook_editor(model)
        return PlainWeights() if editor.hparams.wohk else PlainWeights(editor.plain_weights(), _LOST)
