"""ENN and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.enn.editor import ENNEditor, apply_enn_to_model
from easyedit_lifelong.methods.enn.network import EditableWeights
from easyedit_lifelong.methods.enn.training import ENNTraining
from easyedit_lifelong.methods.hypernetworks.editor import check_trained
from easyedit_lifelong.methods.hypernetworks.trainer import HypernetworkTrainer
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_encodable

METHODS = (
    batch_method(
        ENNEditor,
        apply_enn_to_model,
        "ENN",
        ("archive", "n_edit_steps"),
        check=check_trained,
        check_requests=check_encodable,
        train=HypernetworkTrainer(EditableWeights, ENNTraining),
    ),
)
