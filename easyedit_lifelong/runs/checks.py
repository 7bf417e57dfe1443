"""The checks of a run's data and method against its model, before anything is edited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.joiners import joiner_of, joiners_by_prompt, with_joiner
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.samples import retention_probes
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.chat_requests import check_no_turns, in_chat_form, probes_in_chat_form
from easyedit_lifelong.evaluation.context_fit import check_fit
from easyedit_lifelong.evaluation.harness import check_model
from easyedit_lifelong.evaluation.multiple_choice import check_choices
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.scorers import scorer_for
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.chat_form import ChatForm, check_can_chat
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.runs.experiment import Inputs
from easyedit_lifelong.runs.plan import Plan

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedData:
    """The data of a run, checked against its model.

    Attributes:
        inputs: the data as they were read.
        usable: the requests that can be edited, with their joiners, and in chat form if the run has it.
        skipped: the ``case_id`` of each other request, and the ``reason`` why it cannot be edited. A record that is no
            usable request has no ``case_id``.
        retention: held-out facts: those of ``inputs``, or the sample data's.
        task: the task of the data: ``classification`` for a classifier, else the experiment's or that of the format.
    """

    inputs: Inputs
    usable: list[EditRequest]
    skipped: list[dict[str, Any]]
    retention: Sequence[Probe]
    task: str


def check_data(plan: Plan, inputs: Inputs, model: Any, tokenizer: Any, scorer: Scorer) -> CheckedData:
    """Check a run's data and method against its model.

    Args:
        plan: the plan of the run.
        inputs: the data.
        model: the model, which must carry no edits.
        tokenizer: its tokenizer.
        scorer: the scorer that encodes prompts and answers.

    Raises:
        DataError: a request, a held-out fact or a multiple-choice question cannot be used.
        HyperParameterError: the task does not suit the model.
        ModelError: the method cannot edit this model with the plan's hyperparameters.
        RunError: the model carries edits.
    """
    check_method(plan.method, model, tokenizer, plan.hparams)  # first: data suit a kind of model, not a method
    classifier = kind_of(model) is ModelKind.CLASSIFIER
    task = plan.experiment.task or inputs.task or "qa"
    if classifier:  # the answers of a classifier are labels, even if the data's format has another task
        if task == "generation":
            raise HyperParameterError(f"task: {task}: {type(model).__name__} is a classifier; it writes no text")
        task = "classification"
    retention = inputs.retention
    if retention is None:
        retention = [] if classifier else retention_probes()  # the sample data's facts are no classifier's labels
    if plan.experiment.chat is not None:
        retention = probes_in_chat_form(retention, ChatForm(tokenizer, plan.experiment.chat.system))
    check_fit([], scorer, model, retention)  # usable_requests checks the requests
    check_choices(inputs.capability, tokenizer, model)
    if plan.experiment.lm_eval is not None:
        check_model(model)
    requests = requests_to_edit(plan, inputs.requests, scorer)
    usable, skipped = usable_requests(
        plan.method, model, tokenizer, plan.hparams, requests, scorer, skip=plan.experiment.skip_unusable
    )
    skipped = [{"case_id": None, "reason": reason} for reason in inputs.unusable] + skipped
    carries_edits = getattr(plan.method.state, "carries", None)  # optional
    if carries_edits is not None and carries_edits(model):
        raise RunError(
            "the model carries edits already; a run begins on the unedited model. Roll them back or load it anew."
        )
    return CheckedData(inputs, usable, skipped, retention, task)


def scorer_of(plan: Plan, model: Any, tokenizer: Any) -> Scorer:
    """Return the scorer of a run.

    Raises:
        DataError: the chat template refuses the system message.
        ModelError: the run asks prompts in chat form, and the model generates no text or has no chat template.
    """
    chat, joiner = plan.experiment.chat, joiner_of(plan.hparams)
    if chat is not None:
        check_can_chat(model)
        form = ChatForm(tokenizer, chat.system)
        joiner = form.joiner if joiner is None else joiner
    return scorer_for(model, tokenizer, joiner)


def requests_to_edit(plan: Plan, requests: Sequence[EditRequest], scorer: Scorer) -> list[EditRequest]:
    """Return the requests of a run as its method edits and as the scorer scores them: with joiners, or in chat form.

    Args:
        plan: the plan of the run.
        requests: the requests as they were read.
        scorer: the scorer of the run; it is given the joiners.

    Raises:
        DataError: a request has earlier turns, and the run has no chat form, or the chat template refuses them.
    """
    edited = with_joiner(requests, joiner_of(plan.hparams))
    if plan.experiment.chat is None:
        check_no_turns(edited)
    else:
        edited = in_chat_form(edited, scorer.tokenizer, plan.experiment.chat.system)
    scorer.use_joiners(joiners_by_prompt(edited))
    return edited


def check_method(method: EditMethod, model: Any, tokenizer: Any, hparams: Any) -> None:
    """Check that a method can edit a model.

    Raises:
        ModelError: the method cannot edit this model with these hyperparameters.
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
    """Return the requests that fit into the model's context and that the method can edit.

    Args:
        method: the editing method.
        model: the model.
        tokenizer: its tokenizer.
        hparams: the method's hyperparameters.
        requests: the requests.
        scorer: the scorer that encodes their prompts and answers.
        skip: whether to skip requests that cannot be edited; if not, the first of them raises its error.

    Returns:
        The usable requests; and ``case_id`` and ``reason`` of each skipped request.

    Raises:
        DataError: a request cannot be edited and ``skip`` is False, or no request is left; the message names the
            request.
    """
    usable: list[EditRequest] = []
    skipped = []
    groups = [[request] for request in requests] if skip else [requests]  # one by one, to find those to skip
    for group in groups:
        try:
            check_fit(group, scorer, model)
            if method.check_requests is not None:
                method.check_requests(model, tokenizer, hparams, group)
        except DataError as error:
            if not skip:
                raise
            skipped.append({"case_id": group[0].case_id, "reason": str(error)})
        else:
            usable += group
    if not usable:
        raise DataError(f"none of the requests ({len(requests)}) can be used; the first: {skipped[0]['reason']}")
    if skipped:
        LOG.warning("%d of %d requests can't be used and are left out", len(skipped), len(requests))
    return usable, skipped
