"""What a folder of edits holds, and how near its keys are to colliding; neither a model nor EasyEdit is needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.parts import read_edits
from easyedit_lifelong.edits.remove import COACHHOOK, GRACE
from easyedit_lifelong.methods.base import EditsPart
from easyedit_lifelong.methods.coachhook.porter import stored_batches
from easyedit_lifelong.methods.grace.codebook.history import decision_of, keys_of, rows_of
from easyedit_lifelong.methods.grace.codebook.neighbours import Neighbour, neighbours_of
from easyedit_lifelong.methods.grace.serialized import PackedEdits
from easyedit_lifelong.models.modules import module_path

NEARLY = 1.25
"""Keys whose distance is below this many times the sum of their radii nearly collide."""

_USUAL = {"query_token": "prompt_last", "whiten": False, "key_templates": [], "answer_layer": None, "gate_eps": None}
"""GRACE's settings that are told where they are others than these."""


@dataclass(frozen=True)
class InspectedPart:
    """One editor's edits.

    Attributes:
        method: ``GRACE``, ``CoachHook``, or another plugin's.
        layers: paths of what is edited.
        settings: the hyperparameters that decide what an edit answers.
        edits: one entry for each, in order: the request's fields and ``time``. GRACE's have ``decision``, ``key``,
            ``replaced_by`` (number of the later edit that has this edit's key now, counted from 1), and of the key
            ``radius``, ``hits``, ``neighbour``, ``distance``, ``nearness``; CoachHook's have ``batch``.
        near: GRACE: keys that overlap or nearly do, each with its neighbour, the nearest first: ``keys``, ``edits``
            (numbers of the edits that they answer for), ``distance``, ``nearness``, ``same_target``.
        batches: CoachHook: of each, ``edits`` and the ``alphas`` after it.
    """

    method: str
    layers: list[str]
    settings: dict[str, Any]
    edits: list[dict[str, Any]]
    near: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    batches: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Inspection:
    """What a folder of edits holds.

    Attributes:
        folder: which.
        format_version: of its files.
        saved: when it was written, ISO 8601, UTC.
        model: name of the model that the edits were made on.
        fingerprint: of that model's weights.
        versions: of the packages that wrote it.
        count: how many edits.
        parts: one for each editor.
    """

    folder: str
    format_version: int
    saved: str
    model: str
    fingerprint: str
    versions: dict[str, str]
    count: int
    parts: list[InspectedPart]

    def to_dict(self) -> dict[str, Any]:
        """Return everything by name, ready for JSON."""
        return dataclasses.asdict(self)


def inspect_edits(folder: str | Path, nearly: float = NEARLY) -> Inspection:
    """Look into a folder of edits.

    Args:
        folder: what :func:`~easyedit_lifelong.save_edits` wrote.
        nearly: up to which nearness two keys are listed.

    Raises:
        RunError: there are no edits in it, or they aren't whole, or of a newer format; the message names the file.
    """
    saved = read_edits(Path(folder))
    parts = [_part(method, part, str(saved.path), nearly) for method, part in saved.parts]
    return Inspection(
        str(folder), saved.index["format_version"], str(saved.index.get("saved", "")), saved.model, saved.fingerprint,
        saved.index.get("versions", {}), sum(len(part.edits) for part in parts), parts,
    )  # fmt: skip


def _part(method: str, part: EditsPart, where: str, nearly: float) -> InspectedPart:
    if method == GRACE:
        return _grace(part, where, nearly)
    if method == COACHHOOK:
        return _coachhook(part, where)
    return InspectedPart(method, [], {}, [dict(edit) for edit in part.edits])


def _grace(part: EditsPart, where: str, nearly: float) -> InspectedPart:
    packed = PackedEdits.of(part, where)
    codebook, changes = packed.codebook, packed.changes
    keys, radii, neighbours = keys_of(codebook, changes), codebook.radii.tolist(), neighbours_of(codebook)
    owners = {key: number for number, key in enumerate(keys, start=1)}  # the last one to enter a key
    edits = []
    history = zip(packed.records, keys, changes, rows_of(codebook, changes), strict=True)
    for number, (record, key, change, rows) in enumerate(history, start=1):
        neighbour = neighbours[key]
        edits.append({
            **record.to_dict(), "decision": decision_of(change, rows).value, "key": key,
            "replaced_by": owners[key] if owners[key] != number else None,
            "radius": radii[key], "hits": codebook.hits[key],
            "neighbour": neighbour.key if neighbour else None,
            "distance": neighbour.distance if neighbour else None,
            "nearness": neighbour.nearness if neighbour else None,
        })  # fmt: skip
    settings = {name: part.hparams.get(name) for name in ("eps", "dist_fn", "eps_expand", "replacement")}
    settings |= {name: part.hparams[name] for name, usual in _USUAL.items() if part.hparams.get(name, usual) != usual}
    near = _near(neighbours, owners, codebook.labels, nearly)
    return InspectedPart(
        GRACE, [module_path(name) for name in part.hparams["inner_params"]], settings, edits, near=near
    )


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
        {"keys": [one, two], "edits": [owners[one], owners[two]], "distance": other.distance,
         "nearness": other.nearness, "same_target": labels[one] == labels[two]}
        for (one, two), other in sorted(pairs.items(), key=lambda pair: (pair[1].nearness, pair[0]))
    ]  # fmt: skip


def _coachhook(part: EditsPart, where: str) -> InspectedPart:
    batches = stored_batches(part, where)
    edits = [
        {**record.to_dict(), "batch": number}
        for number, batch in enumerate(batches, start=1)
        for record in batch.records
    ]
    settings = {name: part.hparams.get(name) for name in ("alpha_z", "scope_score", "z_tokens", "wohk")}
    layers = list(batches[-1].layers) if batches else []
    described = [{"edits": len(batch.records), "alphas": batch.alphas} for batch in batches]
    return InspectedPart(COACHHOOK, layers, settings, edits, batches=described)
