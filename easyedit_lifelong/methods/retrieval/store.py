"""The edit store of the retrieval methods: save, load, remove, describe and merge edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.inspection import InspectedPart
from easyedit_lifelong.methods.merging import MergedEdits, MergeSource
from easyedit_lifelong.methods.retrieval.contexts import DEMONSTRATIONS, FACT_TOKENS, PARTS, PROMPT
from easyedit_lifelong.methods.retrieval.editor import (
    CLASSIFIER,
    KEY,
    MEAN,
    SPREAD,
    RetrievalEditor,
    prompt_of,
    standardisation_of,
)
from easyedit_lifelong.methods.shared.replaced_edits import (
    NEIGHBOUR_COLUMNS,
    describe_neighbours,
    merge_separate_edits,
    replaced_by,
)
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.methods.shared.separate_edits import SeparateEditStore

PLACE = "input"
"""What ``inspect`` and merges name as the layer: the editor changes the input of the model."""


class RetrievalStore(SeparateEditStore):
    """Saves, loads, removes, describes and merges the edits of a retrieval method. Each edit is one step.

    Args:
        editor: the class of the method's editor.
    """

    editor: type[RetrievalEditor]

    def __init__(self, editor: type[RetrievalEditor]) -> None:
        super().__init__(editor)

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Add the edits of a part to a model; see :meth:`.EditStore.attach`.

        Raises:
            RunError: the part is incomplete, or made with embeddings of another width.
            ModelError: the model cannot read texts in front of prompts, or has no such block.
            EditError: the prompts are embedded by a sentence encoder, and there is no tokenizer.
        """
        edits = self.edits_of(part, where)
        hparams = self.editor.hparams_class.from_values(part.hparams, where)
        comparison = self.editor.prepare(model, tok, hparams, edits)
        width = comparison.embedder.embed([edits[0].data[PROMPT]]).shape[1]
        for edit in edits:
            if any(tuple(tensor.shape) != (width,) for tensor in edit.tensors.values()):
                raise RunError(f"{where}: the tensors of an edit need the width of this model's embeddings, {width}")
        undo = self.editor.add(model, hparams, edits)
        for editor in self.editor.all_on(model):
            # Edits that the model had before stay comparable with prompts as they were.
            editor.comparison = editor.comparison or comparison
        return undo

    def edits_of(self, part: EditsPart, where: str) -> list[SeparateEdit]:
        """Return the edits of a part.

        Raises:
            RunError: the part is incomplete.
        """
        edits = super().edits_of(part, where)
        for edit in edits:
            has_parts = all(_is_token_ids(edit.data.get(name)) for name in PARTS) and edit.data[PROMPT]
            has_scope = all(isinstance(edit.data.get(name), type_) for name, type_ in self.editor.scope_names.items())
            if not has_parts or not has_scope or set(edit.tensors) != {KEY, MEAN, SPREAD}:
                names = ", ".join((*PARTS, *self.editor.scope_names))
                raise RunError(
                    f"{where}: the edit of case {edit.record.case_id!r} needs {names} and the tensors {KEY}, {MEAN} "
                    f"and {SPREAD}"
                )
            shapes = {tuple(tensor.shape) for tensor in edit.tensors.values()}
            if len(shapes) != 1 or len(shapes.pop()) != 1:
                raise RunError(
                    f"{where}: the tensors {KEY}, {MEAN} and {SPREAD} of case {edit.record.case_id!r} need the same "
                    "width"
                )
        return edits

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return what ``inspect`` shows of a part; see :class:`~easyedit_lifelong.methods.base.EditMethod`."""
        edits = self.edits_of(part, where)
        replaced = replaced_by([prompt_of(edit) for edit in edits])
        thresholds = [self.editor.threshold_of(edit) for edit in edits]
        unit_keys = standardisation_of(edits[-1]).unit(torch.stack([edit.tensors[KEY] for edit in edits]))
        # The threshold of a classifier is for projected keys, which are not in the folder.
        comparable = [
            None if edit.data.get(CLASSIFIER) else threshold for edit, threshold in zip(edits, thresholds, strict=True)
        ]
        entries, near = describe_neighbours(edits, replaced, unit_keys, comparable, nearly)
        for entry, edit, threshold in zip(entries, edits, thresholds, strict=True):
            entry |= {"context_tokens": len(edit.data[DEMONSTRATIONS] + edit.data[FACT_TOKENS]), "threshold": threshold}
        hparams_class = self.editor.hparams_class
        settings = {name: part.hparams.get(name) for name in self.editor.shown_settings}
        columns = {"context tokens": "context_tokens", "threshold": "threshold", **NEIGHBOUR_COLUMNS}
        return InspectedPart(hparams_class.ALG_NAME, [PLACE], settings, entries, near=near, columns=columns)

    def merge(self, sources: Sequence[MergeSource]) -> MergedEdits:
        """Merge folders. Of edits of one prompt, that of the latest folder answers.

        Raises:
            RunError: a folder is incomplete or damaged, or was made with other settings.
        """
        # Equal prompts have equal keys.
        return merge_separate_edits(self, sources, prompt_of, PLACE, lambda edit, other: 0.0)


def _is_token_ids(value: Any) -> bool:
    """Return whether a value from a file is a list of token ids."""
    return isinstance(value, list) and all(type(token) is int and token >= 0 for token in value)
