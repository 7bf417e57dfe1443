"""The checks of a run's data and method against its model, before anything is edited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.runs.experiment import Inputs
from easyedit_lifelong.runs.plan import Plan

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """The data of a run, checked against its model.

    Attributes:
        inputs: the data as they were given.
        usable: the requests that can be edited.
        skipped: the other requests: ``case_id`` and ``reason``.
        retention: held-out facts.
        task: the task of the data.
    """

    inputs: Inputs
    usable: list[EditRequest]
    skipped: list[dict[str, Any]]
    retention: Sequence[Probe]
    task: str


def check_material(plan: Plan, inputs: Inputs, model: Any, tokenizer: Any, scorer: Scorer) -> Material:
    """Check a run's data and method against its model.

    Raises:
        DataError: a request or a held-out fact cannot be used.
        HyperParameterError: the task does not suit the model.
        ModelError: the method cannot edit this model with the plan's hyperparameters.
        RunError: the model carries edits.
    """
    classifier = kind_of(model) is Kind.CLASSIFIER
    task = plan.experiment.task or inputs.task or "qa"
    if classifier:  # its answers are labels, whatever the data's format says
        if task == "generation":
            raise HyperParameterError(f"task: {task}: {type(model).__name__} is a classifier; it writes no text")
        task = "classification"
    retention = inputs.retention
    if retention is None:
        retention = [] if classifier else retention_probes()  # no classifier has labels for the sample data's facts
    check_fit([], scorer, model, retention)
    usable, skipped = usable_requests(
        plan.method, model, tokenizer, plan.hparams, inputs.requests, scorer, skip=plan.experiment.skip_unusable
    )
    check_method(plan.method, model, tokenizer, plan.hparams)
    carries = getattr(plan.method.state, "carries", None)
    if carries is not None and carries(model):
        raise RunError(
            "the model carries edits already; a run begins on the unedited model. Roll them back or load it anew."
        )
    return Material(inputs, usable, skipped, retention, task)


def check_method(method: EditMethod, model: Any, tokenizer: Any, hparams: Any) -> None:
    """Check that the method can edit the model.

    Raises:
        ModelError: it can't edit this model with these hyperparameters.
    """
    if method.check is not None:
        method.check(model, tokenizer, hparams)


def usable_requests(
    method: EditMethod,
    model: Any,
    tokenizer: Any,
    hparams: Any,
    requests: Sequence[EditRequest],
    scorer: Scorer,
    *,
    skip: bool,
) -> tuple[list[EditRequest], list[dict[str, Any]]]:
    """Return the requests that fit the model and that the method can edit, and the others with the reason.

    Args:
        method: the editing method.
        model: the model.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.
        requests: the requests.
        scorer: encodes their prompts and answers.
        skip: whether requests that cannot be used are left out; else the first raises its error.

    Raises:
        DataError: a request cannot be used and none may be skipped, or none is left; the message names it.
    """
    usable: list[EditRequest] = []
    skipped = []
    for few in [[request] for request in requests] if skip else [requests]:
        try:
            check_fit(few, scorer, model)
            if method.check_requests is not None:
                method.check_requests(model, tokenizer, hparams, few)
        except DataError as error:
            if not skip:
                raise
            skipped.append({"case_id": few[0].case_id, "reason": str(error)})
        else:
            usable += few
    if not usable:
        raise DataError(f"none of the {len(requests)} requests can be used; the first: {skipped[0]['reason']}")
    if skipped:
        LOG.warning("%d of %d requests can't be used and are left out", len(skipped), len(requests))
    return usable, skipped
