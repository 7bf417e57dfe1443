"""Serialized GRACE edits that were made without a model."""

from __future__ import annotations

from pathlib import Path

import torch

from easyedit_lifelong.edits.folder_parts import write_edits
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.serialized import SerializedEdits
from easyedit_lifelong.methods.shared.records import EditRecord

Edit = tuple[int, int, int]


def serialize_edits(
    numbered: list[tuple[int, Edit]], dist_fn: str = "euc", eps_expand: str = "coverage"
) -> SerializedEdits:
    eps = 1.0 if dist_fn == "euc" else 0.05
    hparams = {
        "model_name": "m",
        "alg_name": "GRACE",
        "inner_params": ["a[1].b.weight"],
        "eps": eps,
        "dist_fn": dist_fn,
        "eps_expand": eps_expand,
    }
    codebook, changes = Codebook(2, 1, eps=eps, dist_fn=dist_fn, eps_expand=eps_expand), list[Change]()
    for n, (x, y, label) in numbered:
        entered = codebook.insert(torch.tensor([x / 4 + 0.01, y / 4]), (label,), torch.tensor([float(n)]))
        changes.append(entered[2])
    records = [EditRecord(f"c{n}", f"p{n}", "t", None, None, "2026-01-01T00:00:00+00:00") for n, _ in numbered]
    return SerializedEdits(hparams, codebook, changes, records, (True, 3))


def saved(folder: Path, edits: SerializedEdits, fingerprint: str = "f") -> Path:
    write_edits(folder, "m", fingerprint, [("GRACE", edits.part())])
    return folder
