"""KE and its ports."""

from __future__ import annotations

from easyedit_lifelong.methods.hypernetworks.editor import check_trained
from easyedit_lifelong.methods.hypernetworks.trainer import HypernetworkTrainer
from easyedit_lifelong.methods.ke.editor import KEEditor, apply_ke_to_model
from easyedit_lifelong.methods.ke.network import KENetwork
from easyedit_lifelong.methods.ke.training import KETraining
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method
from easyedit_lifelong.methods.weight_updates.check import check_encodable

METHODS = (
    batch_method(
        KEEditor,
        apply_ke_to_model,
        "KE",
        ("archive", "max_scale"),
        check=check_trained,
        check_requests=check_encodable,
        train=HypernetworkTrainer(KENetwork, KETraining),
    ),
)
