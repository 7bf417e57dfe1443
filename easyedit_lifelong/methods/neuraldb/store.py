"""The edit store of NeuralDB: save, load, remove, describe and merge edits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor
from easyedit_lifelong.methods.neuraldb.fact_table import GAMMA, KEY, KEY_TOKENS, RESIDUAL, replaced_by, unit_keys
from easyedit_lifelong.methods.shared.separate_edits import SeparateEdit, SeparateEditStore
from easyedit_lifelong.models.anatomy import projection_shape
from easyedit_lifelong.models.modules import find_module, module_path

_SETTINGS = ("gamma", "false_fire_rate", "fact_token")
"""The settings that ``inspect`` shows."""

_COLUMNS = {
    "gamma": GAMMA,
    "replaced by": "replaced_by",
    "nearest edit": "neighbour",
    "cosine": "cosine",
    "nearness": "nearness",
}

_SMALLEST_RADII = 1e-9
"""The smallest sum of two radii that a distance is divided by. A radius is 0 if γ is 1."""

_PAIRS_AT_ONCE = 1 << 24
"""Pairs of keys whose cosines are in memory at once."""


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
        """Return what ``inspect`` shows of a part; see :class:`~easyedit_lifelong.methods.base.EditMethod`.

        The distance of two keys is 1 - cosine. Their nearness is the distance divided by the sum of their radii 1 - γ:
        at 1 and below, one input can be near enough to both. Edits that a later edit replaces have no neighbour.
        """
        edits = self.edits_of(part, where)
        replaced = replaced_by([edit.data for edit in edits])
        answering = [number for number, later in enumerate(replaced) if later is None]
        neighbours = _nearest([edits[number] for number in answering])
        entries: list[dict[str, Any]] = [
            {
                **edit.record.to_dict(),
                GAMMA: edit.data[GAMMA],
                "replaced_by": None if later is None else later + 1,
                **dict.fromkeys(("neighbour", "cosine", "nearness")),
            }
            for edit, later in zip(edits, replaced, strict=True)
        ]
        pairs: dict[tuple[int, int], dict[str, Any]] = {}
        for number, (row, cosine) in zip(answering, neighbours, strict=False):  # a single edit has no neighbour
            other, distance = answering[row], 1 - cosine
            nearness = distance / max(2 - edits[number].data[GAMMA] - edits[other].data[GAMMA], _SMALLEST_RADII)
            entries[number] |= {"neighbour": other + 1, "cosine": cosine, "nearness": nearness}
            if nearness <= nearly:
                numbers = sorted((number + 1, other + 1))
                pairs[numbers[0], numbers[1]] = {
                    "keys": numbers,
                    "edits": numbers,
                    "distance": distance,
                    "nearness": nearness,
                    "same_target": edits[number].record.target_new == edits[other].record.target_new,
                }
        near = sorted(pairs.values(), key=lambda pair: (pair["nearness"], pair["keys"]))
        layer = module_path(NeuralDBEditor.hparams_class.from_values(part.hparams, where).rewrite_modules[0])
        settings = {name: part.hparams.get(name) for name in _SETTINGS}
        return InspectedPart("NeuralDB", [layer], settings, entries, near=near, columns=_COLUMNS)


def _nearest(edits: Sequence[SeparateEdit]) -> list[tuple[int, float]]:
    """Return the nearest other key of each edit, and the cosine between both; empty if there is only one edit."""
    if len(edits) < 2:
        return []
    keys: Tensor = unit_keys(edits)
    nearest: list[tuple[int, float]] = []
    for rows in torch.arange(len(keys)).split(max(1, _PAIRS_AT_ONCE // len(keys))):
        cosines = keys[rows] @ keys.t()
        cosines[torch.arange(len(rows)), rows] = -1.0
        values, others = cosines.clamp(-1, 1).max(dim=1)
        nearest += zip(others.tolist(), values.tolist(), strict=True)
    return nearest
