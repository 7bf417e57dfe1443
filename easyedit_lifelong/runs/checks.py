"""The checks of a run that need its method, its model or its requests, before anything is edited."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong import bridge
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError, HyperParameterError
from easyedit_lifelong.evaluation.context_fit import check_fit as check_fit
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.progress import Progress as Progress
from easyedit_lifelong.runs.state import RunResult as RunResult

LOG = logging.getLogger(__name__)


def find_method(hparams: Any) -> EditMethod:
    """Return the method that hyperparameters belong to: a registered one, or EasyEdit's own.

    Raises:
        HyperParameterError: there is none.
    """
    method = get_plugins().method_for(hparams) or bridge.easyedit_method_for(hparams)
    if method is None:
        raise HyperParameterError(f"{type(hparams).__name__} belongs to no registered editing method")
    return method


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
