"""Check that prompts and answers fit into a model's context, before anything is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.success import contests
from easyedit_lifelong.models.load import context_length

_COMPARED = (("prompt", "ground_truth"), ("rephrase_prompt", "ground_truth"), ("locality_prompt", "target_new"))
"""What ROME's scores compare each kind of prompt's own answer with."""


def check_fit(requests: Sequence[EditRequest], scorer: Scorer, model: Any, retention: Sequence[Probe] = ()) -> None:
    """Check that every prompt with its answer fits into the model's context.

    Args:
        requests: requests, whose probes and contested answers are checked too.
        scorer: the scorer that encodes them.
        model: the model, for the length of its context.
        retention: held-out facts.

    Raises:
        DataError: one does not fit; the message names it.
    """
    limit = context_length(model)
    own = "its answer"
    asked = [
        (f"retention fact {n}", [("prompt", own, probe.prompt, probe.answer)]) for n, probe in enumerate(retention)
    ]
    for request in requests:
        fields = [("prompt", own, request.prompt, request.target_new)]
        fields += [("rephrase_prompt", own, prompt, request.target_new) for prompt in request.rephrase_prompts]
        for kind in ("locality", "portability"):
            for probes in getattr(request, kind).values():
                fields += [(f"{kind}_prompt", own, probe.prompt, probe.answer) for probe in probes]
        fields += [
            (f"{RELATION_SPECIFICITY}_prompt", own, probe.prompt, probe.answer)
            for probe in request.relation_specificity
        ]
        for (name, behind), several in zip(_COMPARED, contests(request), strict=True):
            fields += [(name, behind, *question) for contest in several for question in contest.questions]
        asked.append((request.where, fields))
    for where, fields in asked:
        for name, behind, prompt, answer in fields:
            try:
                length = scorer.encode(prompt, answer).length
            except DataError as error:
                raise DataError(f"{where}, field {name!r}: {error}") from error
            if limit is not None and length > limit:
                raise DataError(
                    f"{where}, field {name!r}: with {behind} it has {length} tokens, the model's "
                    f"context is {limit}. Shorten it or leave the record out."
                )
