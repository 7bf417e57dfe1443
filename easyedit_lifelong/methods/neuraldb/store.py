"""The edit store of NeuralDB: save, load, remove, describe and merge edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.inspection import InspectedPart
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor
from easyedit_lifelong.methods.neuraldb.fact_table import GAMMA, KEY, KEY_TOKENS, RESIDUAL, answered_tokens, unit_keys
from easyedit_lifelong.methods.shared.replaced_edits import NEIGHBOUR_COLUMNS, describe_neighbours, replaced_by
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.methods.shared.separate_edits import SeparateEditStore
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.modules import find_module, module_path

_SETTINGS = ("gamma", "false_fire_rate", "fact_token")
"""The settings that ``inspect`` shows."""


class NeuralDBStore(SeparateEditStore):
    """Saves, loads, removes and describes NeuralDB's edits. Each edit is one step."""

    def __init__(self) -> None:
        super().__init__(NeuralDBEditor)

    def attach(self, model: Any, tok: Any, part: EditsPart, where: str) -> Callable[[], None]:
        """Add the edits of a part to a model; see :meth:`.EditStore.attach`.

        Raises:
            RunError: the part is incomplete, or made on a model of another shape.
            ModelError: the model has no such layer.
        """
        edits = self.edits_of(part, where)
        hparams = NeuralDBEditor.hparams_class.from_values(part.hparams, where)
        path, projection = find_module(model, hparams.rewrite_modules[0])
        inputs, width = projection_shape(projection)
        for edit in edits:
            shapes = tuple(edit.tensors[KEY].shape), tuple(edit.tensors[RESIDUAL].shape)
            if shapes != ((inputs,), (width,)):
                raise RunError(
                    f"{where}: keys and residuals have the shapes {shapes}, but {path} has {inputs} inputs and {width} "
                    "outputs"
                )
        return NeuralDBEditor.add(model, hparams, edits)

    def edits_of(self, part: EditsPart, where: str) -> list[SeparateEdit]:
        """Return the edits of a part.

        Raises:
            RunError: the part is incomplete.
        """
        edits = super().edits_of(part, where)
        for edit in edits:
            has_gamma = isinstance(edit.data.get(GAMMA), float) and isinstance(edit.data.get(KEY_TOKENS), list)
            if not has_gamma or set(edit.tensors) != {KEY, RESIDUAL}:
                raise RunError(
                    f"{where}: the edit of case {edit.record.case_id!r} needs {GAMMA}, {KEY_TOKENS} and the tensors "
                    f"{KEY} and {RESIDUAL}"
                )
        return edits

    def describe(self, part: EditsPart, where: str, nearly: float) -> InspectedPart:
        """Return what ``inspect`` shows of a part; see :class:`~easyedit_lifelong.methods.base.EditMethod`."""
        edits = self.edits_of(part, where)
        gammas = [edit.data[GAMMA] for edit in edits]
        replaced = replaced_by([answered_tokens(edit) for edit in edits])
        entries, near = describe_neighbours(edits, replaced, unit_keys(edits), gammas, nearly)
        for entry, gamma in zip(entries, gammas, strict=True):
            entry[GAMMA] = gamma
        layer = module_path(NeuralDBEditor.hparams_class.from_values(part.hparams, where).rewrite_modules[0])
        settings = {name: part.hparams.get(name) for name in _SETTINGS}
        columns = {"gamma": GAMMA, **NEIGHBOUR_COLUMNS}
        return InspectedPart("NeuralDB", [layer], settings, entries, near=near, columns=columns)
