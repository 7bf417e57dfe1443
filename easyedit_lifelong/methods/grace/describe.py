"""Describe a stored codebook without a model: its edits and keys, and keys whose radii nearly overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.edit_history import all_keys_of, decision_of, rows_of
from easyedit_lifelong.methods.grace.codebook.neighbours import Neighbour, neighbours_of
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.inspection import InspectedPart
from easyedit_lifelong.models.modules import module_path

_DEFAULTS = {
    "query_token": "prompt_last",
    "whiten": False,
    "key_templates": [],
    "answer_layer": None,
    "gate_eps": None,
    "gate_metric": "activations",
    "named_eps": None,
    "tokens_per_key": 0,
}
"""Settings that are shown only if they differ from these values."""

_FURTHER_COLUMN = {"further keys": "further_keys"}
"""Column that is shown only if an edit has further keys."""

_COLUMNS = {"key": "key", "radius": "radius", "hits": "hits", "nearest key": "neighbour", "nearness": "nearness"}
"""Further columns of the table of edits; see :class:`.InspectedPart`."""


def describe(part: EditsPart, where: str, nearly: float) -> InspectedPart:
    """Return the description of a layer's stored edits.

    Args:
        part: the edits of one layer.
        where: the file that the part comes from, for messages.
        nearly: two keys are listed as near if their distance is at most this many times the sum of their radii.

    Raises:
        RunError: the part is incomplete or damaged.
    """
    stored = SerializedEdits.of(part, where)
    codebook, changes = stored.codebook, stored.changes
    keys, radii = all_keys_of(codebook, changes), codebook.radii.tolist()
    # Each key answers for its last edit.
    owners = {key: number for number, keys_of_edit in enumerate(keys, start=1) for key in keys_of_edit}
    neighbours = neighbours_of(codebook, [owners[key] for key in range(len(codebook))])
    edits = []
    history = zip(stored.records, keys, changes, rows_of(codebook, changes), strict=True)
    for number, (record, (key, *other_keys), change, rows) in enumerate(history, start=1):
        neighbour = neighbours[key]
        edits.append(
            {
                **record.to_dict(),
                "decision": decision_of(change, rows.own).value,
                "key": key,
                "replaced_by": owners[key] if owners[key] != number else None,
                "radius": radii[key],
                "hits": codebook.hits[key],
                "neighbour": neighbour.key if neighbour else None,
                "distance": neighbour.distance if neighbour else None,
                "nearness": neighbour.nearness if neighbour else None,
                "further_keys": len(change.further),
                **({"keys_of_other_names": other_keys} if other_keys else {}),
            }
        )
    settings = {name: part.hparams.get(name) for name in ("eps", "dist_fn", "eps_expand", "replacement")}
    for name, default in _DEFAULTS.items():
        if (value := part.hparams.get(name, default)) != default:
            settings[name] = value
    layers = [module_path(name) for name in part.hparams["inner_params"]]
    near = _near_pairs(neighbours, owners, codebook.labels, nearly)
    columns = _COLUMNS | (_FURTHER_COLUMN if any(change.further for change in changes) else {})
    return InspectedPart("GRACE", layers, settings, edits, near=near, columns=columns)


def _near_pairs(
    neighbours: list[Neighbour | None], owners: dict[int, int], labels: Sequence[tuple[int, ...]], nearly: float
) -> list[dict[str, Any]]:
    """Return each pair of near keys once, the nearest first.

    Args:
        neighbours: each key's neighbour.
        owners: the number of the edit that each key answers for.
        labels: each key's label.
        nearly: see :func:`describe`.
    """
    pairs = {
        (min(key, neighbour.key), max(key, neighbour.key)): neighbour
        for key, neighbour in enumerate(neighbours)
        if neighbour is not None and neighbour.nearness <= nearly
    }
    return [
        {
            "keys": [key, other_key],
            "edits": [owners[key], owners[other_key]],
            "distance": neighbour.distance,
            "nearness": neighbour.nearness,
            "same_target": labels[key] == labels[other_key],
        }
        for (key, other_key), neighbour in sorted(pairs.items(), key=lambda item: (item[1].nearness, item[0]))
    ]
