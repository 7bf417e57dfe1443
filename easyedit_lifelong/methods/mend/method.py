"""MEND and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.hypernetworks.editor import check_trained
from easyedit_lifelong.methods.hypernetworks.trainer import HypernetworkTrainer
from easyedit_lifelong.methods.mend.editor import MendEditor, apply_mend_to_model
from easyedit_lifelong.methods.mend.network import MendNetwork
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_encodable

METHODS = (
    batch_method(
        MendEditor,
        apply_mend_to_model,
        "MEND",
        ("archive", "rank"),
        check=check_trained,
        check_requests=check_encodable,
        train=HypernetworkTrainer(MendNetwork),
    ),
)
