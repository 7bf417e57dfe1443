"""GRACE and its ports."""

from __future__ import annotations

from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.calibration.calibrator import GraceCalibrator
from easyedit_lifelong.methods.grace.check import check_layer, check_requests
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.describe import describe
from easyedit_lifelong.methods.grace.explain import explain
from easyedit_lifelong.methods.grace.merge import merge
from easyedit_lifelong.methods.grace.search import SEARCH_SPACE
from easyedit_lifelong.methods.grace.store import GraceRemoval, GraceStore
from easyedit_lifelong.methods.grace.subject.model_statistics import prepare_statistics
from easyedit_lifelong.methods.grace.watch import watch_answers
from easyedit_lifelong.models.model_kinds import ModelKind

_NO_WEIGHTS = (
    "GRACE's edits can't be put into plain weights: its codebook looks at how far a prompt is from each edited "
    "prompt, and acts only within a radius. No weight matrix can do that. Save these edits and put them on the model "
    "with load_edits, or edit with CoachHook, whose updates are weights."
)

_NO_BATCHES = "GRACE's edits are rolled back case by case"


def count_keys(model: Any) -> dict[str, float]:
    """Return the number of keys on all edited layers of the model, and that of further keys if there are any."""
    codebooks = [module for module in model.modules() if isinstance(module, Codebook)]
    further = sum(len(codebook.further_keys or ()) for codebook in codebooks)
    counts: dict[str, float] = {"n_keys": sum(map(len, codebooks)) - further}  # the modules include further keys
    return counts | ({"n_further_keys": further} if further else {})


METHODS = (
    EditMethod(
        "GRACE",
        GraceHyperParams,
        apply_grace_to_model,
        batchable=True,
        further_model_kinds=(ModelKind.SEQ2SEQ, ModelKind.CLASSIFIER),
        check=check_layer,
        check_requests=check_requests,
        prepare=prepare_statistics,
        edits=GraceStore(),
        counts=count_keys,
        remove=GraceRemoval(),
        explain=explain,
        describe=describe,
        merge=merge,
        calibrate=GraceCalibrator(),
        search_space=SEARCH_SPACE,
        edits_by_row=True,
        watch_answers=watch_answers,
        reasons={"plain_weights": _NO_WEIGHTS, "remove_batches": _NO_BATCHES},
    ),
)
