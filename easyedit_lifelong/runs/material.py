"""The data of a run, checked against its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.runs.checks import check_fit, check_method, usable_requests
from easyedit_lifelong.runs.experiment import Inputs
from easyedit_lifelong.runs.plan import Plan


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
    return Material(inputs, usable, skipped, retention, task)
