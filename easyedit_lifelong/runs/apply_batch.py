"""Edit a batch with the method of a run: the edited model, or the reason why the method failed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, NotLearnedWarning
from easyedit_lifelong.runs.peak_memory import PeakMemory
from easyedit_lifelong.runs.plan import Plan

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppliedBatch:
    """The outcome of the method's ``apply`` for one batch.

    Attributes:
        model: the edited model; if the method failed, the model as it was before.
        rollback: removes the batch's edits; None if the method failed, or returned no rollback.
        details: for each request, the method's further fields of the journal; empty if it gives none.
        failure: the reason why the method failed; None if it did not.
        peak_memory: the peak of memory while the method edited, in bytes; None if it isn't known.
    """

    model: Any
    rollback: Any = None
    details: Sequence[dict[str, Any]] = ()
    failure: str | None = None
    peak_memory: int | None = None


def apply_batch(
    plan: Plan, model: Any, tokenizer: Any, batch: list[EditRequest], number: int, memory: PeakMemory
) -> AppliedBatch:
    """Apply the method of a run to a batch; if it fails, log the reason.

    Args:
        plan: the plan of the run.
        model: the model, as edited so far; it is edited in place.
        tokenizer: its tokenizer.
        batch: the requests.
        number: the batch's number, counted from 1, for the log.
        memory: measures the peak of memory.
    """
    try:
        with memory.measured(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearnedWarning)  # the journal says which edits were learned
            edited, rollback = plan.method.apply(model, tokenizer, batch, plan.hparams)
    except EditError as error:
        LOG.warning("%s", f"batch {number}: {error}" if plan.batched else error)
        return AppliedBatch(model, failure=str(error))
    results = getattr(rollback, "results", None) or []  # optional
    details = [_journal_fields(result.to_dict()) for result in results]
    details = details if len(details) == len(batch) else []
    return AppliedBatch(edited, rollback, details, peak_memory=memory.bytes)


def _journal_fields(result: dict[str, Any]) -> dict[str, Any]:
    """Return a method's result of an edit as fields of the journal, without those that the run writes itself."""
    fields = {**result, **(result.get("detail") or {})}
    return {name: value for name, value in fields.items() if name not in ("detail", "case_id", "batch")}
