"""What a folder's batches of CoachHook edits are; no model is needed."""

from __future__ import annotations

from easyedit_lifelong.methods.base import EditsPart, InspectedPart
from easyedit_lifelong.methods.coachhook.store import stored_batches


def describe(part: EditsPart, where: str, nearly: float) -> InspectedPart:
    """Return what a part's batches are; see :class:`~easyedit_lifelong.methods.base.EditMethod`.

    Raises:
        RunError: the part isn't whole.
    """
    batches = stored_batches(part, where)
    edits = [
        {**record.to_dict(), "batch": number}
        for number, batch in enumerate(batches, start=1)
        for record in batch.records
    ]
    settings = {name: part.hparams.get(name) for name in ("alpha_z", "scope_score", "z_tokens", "wohk")}
    layers = list(batches[-1].layers) if batches else []
    described = [{"edits": len(batch.records), "alphas": batch.alphas} for batch in batches]
    return InspectedPart("CoachHook", layers, settings, edits, batches=described, columns={"batch": "batch"})
