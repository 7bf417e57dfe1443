"""What a folder's codebook holds, and how near its keys are to colliding; no model is needed."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.codebook.history import decision_of, keys_of, rows_of
from easyedit_lifelong.methods.grace.codebook.neighbours import Neighbour, neighbours_of
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.models.modules import module_path

_DEFAULTS = {
    "query_token": "prompt_last",
    "whiten": False,
    "key_templates": [],
    "answer_layer": None,
    "gate_eps": None,
}
"""Settings that are shown where they have other values than these."""

_COLUMNS = {"key": "key", "radius": "radius", "hits": "hits", "nearest key": "neighbour", "nearness": "nearness"}


def describe(part: EditsPart, where: str, nearly: float) -> InspectedPart:
    """Return what a part's codebook holds.

    Args:
        part: one layer's edits.
        where: the file that they come from, for messages.
        nearly: keys whose distance is up to this many times the sum of their radii are listed as near.

    Raises:
        RunError: the part isn't whole.
    """
    stored = SerializedEdits.of(part, where)
    codebook, changes = stored.codebook, stored.changes
    keys, radii, neighbours = keys_of(codebook, changes), codebook.radii.tolist(), neighbours_of(codebook)
    owners = {key: number for number, key in enumerate(keys, start=1)}  # the last one to enter a key
    edits = []
    history = zip(stored.records, keys, changes, rows_of(codebook, changes), strict=True)
    for number, (record, key, change, rows) in enumerate(history, start=1):
        neighbour = neighbours[key]
        edits.append(
            {
                **record.to_dict(),
                "decision": decision_of(change, rows).value,
                "key": key,
                "replaced_by": owners[key] if owners[key] != number else None,
                "radius": radii[key],
                "hits": codebook.hits[key],
                "neighbour": neighbour.key if neighbour else None,
                "distance": neighbour.distance if neighbour else None,
                "nearness": neighbour.nearness if neighbour else None,
            }
        )
    settings = {name: part.hparams.get(name) for name in ("eps", "dist_fn", "eps_expand", "replacement")}
    others = {name: part.hparams.get(name, value) for name, value in _DEFAULTS.items()}
    settings |= {name: value for name, value in others.items() if value != _DEFAULTS[name]}
    layers = [module_path(name) for name in part.hparams["inner_params"]]
    near = _near(neighbours, owners, codebook.labels, nearly)
    return InspectedPart("GRACE", layers, settings, edits, near=near, columns=_COLUMNS)


def _near(
    neighbours: list[Neighbour | None], owners: dict[int, int], labels: list[tuple[int, ...]], nearly: float
) -> list[dict[str, Any]]:
    """Return the pairs of keys that are near each other, each once."""
    pairs = {
        (min(key, other.key), max(key, other.key)): other
        for key, other in enumerate(neighbours)
        if other is not None and other.nearness <= nearly
    }
    return [
        {
            "keys": [one, two],
            "edits": [owners[one], owners[two]],
            "distance": other.distance,
            "nearness": other.nearness,
            "same_target": labels[one] == labels[two],
        }
        for (one, two), other in sorted(pairs.items(), key=lambda pair: (pair[1].nearness, pair[0]))
    ]
