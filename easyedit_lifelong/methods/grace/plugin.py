"""GRACE, registered through the hook that any plugin uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.hookspecs import hookimpl
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.calibration.calibrator import GraceCalibrator
from easyedit_lifelong.methods.grace.check import check_layer, check_requests
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.porter import GracePorter
from easyedit_lifelong.methods.grace.store import GraceKeeper
from easyedit_lifelong.methods.grace.subject.whitening import prepare_whitening


@hookimpl
def register_methods(register: Callable[[EditMethod], None]) -> None:
    """Register GRACE."""
    method = EditMethod(
        "GRACE", GraceHyperParams, apply_grace_to_model, batchable=True, check=check_layer,
        check_requests=check_requests, prepare=prepare_whitening, state=GraceKeeper(), edits=GracePorter(),
        counts=count_keys, calibrate=GraceCalibrator(),
    )  # fmt: skip
    register(method)


def count_keys(model: Any) -> dict[str, float]:
    """Return how many keys the model's codebooks hold, of all its edited layers."""
    return {"n_keys": sum(len(module) for module in model.modules() if isinstance(module, Codebook))}
