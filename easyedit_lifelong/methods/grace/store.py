"""GRACE's edit store, which saves and loads edits, and the removal of single edits, on a model or in stored parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.errors import EditError, ModelError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.methods.edit_stores import EditsPart, OldState
from easyedit_lifelong.methods.grace import old_state
from easyedit_lifelong.methods.grace.codebook.codebook_arrays import ARRAY_NAMES
from easyedit_lifelong.methods.grace.codebook.columns import LENGTHS
from easyedit_lifelong.methods.grace.codebook.key_space import KEY_SPACE_TENSORS
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import SAME_SETTINGS, GraceEditor
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.grace.stored_rows import FURTHER_NAMES, LATER, later_edits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import find_module, module_path
from easyedit_lifelong.models.wrappers import inner_projection


class GraceStore:
    """Saves and loads the edits of each layer's codebook. Each edit is one step of a saved state."""

    old_state_files = old_state.FILES

    def parts(self, model: Any) -> list[EditsPart]:
        """Return one part for each edited layer."""
        return [_serialized(model, editor).part() for editor in GraceEditor.all_of(model).values() if editor.changes]

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Put a layer's edits on a model that carries no GRACE edits on that layer.

        Returns:
            A function that rolls these edits back.

        Raises:
            RunError: the part is incomplete or damaged.
            ModelError: the model has no such layer, or a layer of another width.
            EditError: the layer carries GRACE edits already.
        """
        hparams, stored = GraceHyperParams.from_values(part.hparams, where), SerializedEdits.of(part, where)
        _check_widths(model, hparams, stored, where)
        layer, _ = find_module(model, hparams.inner_params[0])
        if layer in GraceEditor.all_of(model):
            raise EditError(f"{where}: {layer} carries GRACE edits already; roll those back first")
        if hparams.named_eps is not None and tok is None:
            raise EditError(
                f"{where}: the edits compare words of prompts with their subjects (named_eps), which needs the "
                "tokenizer. Load them with load_edits(model, folder, tokenizer)."
            )
        return GraceEditor.on(model, tok, hparams).adopt(stored)

    def history(self, model: Any) -> Sequence[EditRecord]:
        """Return the records of all edits of a model with one edited layer.

        Raises:
            RunError: several layers carry edits.
        """
        editors = GraceEditor.all_of(model)
        if len(editors) > 1:
            raise RunError(f"the model carries GRACE edits on {', '.join(editors)}; only one layer's can be saved")
        return next((editor.records for editor in editors.values()), [])

    def steps(self, model: Any, begin: int) -> Iterator[EditsPart]:
        """Yield each edit from number ``begin`` on as a part, with the codebook rows that it changed."""
        (editor,) = GraceEditor.all_of(model).values()
        return _serialized(model, editor).steps(begin)

    def join(self, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Join consecutive edits into one part.

        Raises:
            RunError: a step is incomplete or damaged.
        """
        changed: list[dict[str, Any]] = []
        n_queries = 0
        try:
            for step in steps:
                for entry in step.state["changed"]:
                    # A step counts its queries from 0.
                    new_number = {"query": n_queries + entry["query"]} if "query" in entry else {}
                    changed.append({**entry, **new_number})
                n_queries += len(step.tensors.get("queries", ()))
            # A step whose edit added a key has no queries, and one whose edit has one key has no further keys.
            optional = [name for name in ("queries", *FURTHER_NAMES.values()) if any(name in s.tensors for s in steps)]
            tensors = {
                name: torch.cat([step.tensors[name] for step in steps if name in step.tensors])
                for name in (*ARRAY_NAMES, *optional)
            }
        except (KeyError, TypeError, RuntimeError) as error:
            raise RunError(f"{where}: GRACE's edits are incomplete or damaged: {error}") from error
        tensors |= {name: steps[0].tensors[name] for name in KEY_SPACE_TENSORS if name in steps[0].tensors}
        edits = [edit for step in steps for edit in step.edits]
        return EditsPart(steps[-1].hparams, edits, {**steps[-1].state, "changed": changed}, tensors)

    def extended(self, part: EditsPart, steps: Sequence[EditsPart], where: str) -> EditsPart:
        """Return a part with the edits that followed it; see :class:`.ExtendableEditStore`.

        Raises:
            RunError: a step is incomplete or damaged.
        """
        if "changed" in part.state and LENGTHS in part.tensors:  # edits were appended to the part before
            steps = [later_edits(part, len(part.tensors[LENGTHS])), *steps]
            part = dataclasses.replace(part, edits=part.edits[: -len(steps[0].edits)])
        later = self.join(steps, where)
        edits = LazyList(len(part.edits), part.edits.__getitem__)
        edits.extend(later.edits)
        tensors = {f"{LATER}{name}": tensor for name, tensor in later.tensors.items()}
        return EditsPart(later.hparams, edits, {**part.state, **later.state}, {**part.tensors, **tensors})

    def shared_settings(self, hparams: GraceHyperParams) -> dict[str, Any]:
        """Return the layer's path and the settings that all edits of a codebook must share."""
        layers = [module_path(name) for name in hparams.inner_params]
        return {"inner_params": layers, **{name: getattr(hparams, name) for name in SAME_SETTINGS}}

    def read_old_state(
        self, folder: Path, case_ids: Sequence[int | str] | None = None, *, tensors: bool = True
    ) -> OldState | None:
        """Return the edits of a state folder that version 0.1 wrote; None if the folder holds no GRACE edits."""
        return old_state.read_old_state(folder, case_ids, tensors=tensors)


class GraceRemoval:
    """Removes single edits from codebooks, as if they had never been made: later edits are inserted again."""

    def records(self, model: Any) -> list[EditRecord]:
        """Return the records of all edits on all layers."""
        return [record for editor in GraceEditor.all_of(model).values() for record in editor.records]

    def remove(self, model: Any, records: Sequence[EditRecord], *, check_only: bool = False) -> None:
        """Remove edits from every layer of a model that carries them, all or none.

        Args:
            model: the edited model.
            records: the records of the edits to remove.
            check_only: check that the edits can be removed, and change nothing.

        Raises:
            EditError: the query of a later edit is not known. Then nothing is changed.
        """
        editors = list(GraceEditor.all_of(model).values())
        for editor in editors:
            editor.remove_records(records, check_only=True)
        if not check_only:
            for editor in editors:
                editor.remove_records(records)

    def remove_from(self, part: EditsPart, numbers: Collection[int], where: str) -> EditsPart:
        """Return a part without the edits of these numbers; see :meth:`SerializedEdits.remove`."""
        edits = SerializedEdits.of(part, where)
        try:
            edits.remove(numbers)
        except EditError as error:
            raise EditError(f"{where}: {error}") from error
        return edits.part()


def _check_widths(model: Any, hparams: GraceHyperParams, stored: SerializedEdits, where: str) -> None:
    """Check that saved keys and values are as wide as the inputs and outputs of the edited projections.

    Layers that are no linear projections are not checked: their widths are not known before a pass.

    Raises:
        ModelError: a width differs, or the model has no such layer.
    """
    codebook, key_layer = stored.codebook, hparams.inner_params[0]
    expected = [
        (key_layer, 0, "keys", codebook.key_width // hparams.vectors_per_key),
        (hparams.answer_layer or key_layer, 1, "values", codebook.value_size),
    ]
    if codebook.further_keys is not None:
        expected.append((hparams.answer_layer or key_layer, 0, "further keys", codebook.further_keys.key_width))
    for name, side, what, width in expected:
        try:
            path, module = find_module(model, name)
            layer_width = projection_shape(inner_projection(module))[side]
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error
        except TypeError:
            continue
        if width != layer_width:
            raise ModelError(
                f"{where}: the edits' {what} are {width} wide, but the {('input', 'output')[side]} of {path} is "
                f"{layer_width} wide. They belong to another layer or model."
            )


def _serialized(model: Any, editor: GraceEditor) -> SerializedEdits:
    """Return an editor's edits without their model."""
    assert editor.codebook is not None
    hparams = hparams_values(editor.hparams, model_label(model))
    return SerializedEdits(
        hparams, editor.codebook, editor.changes, editor.records, editor.replay_support, editor.key_space
    )
