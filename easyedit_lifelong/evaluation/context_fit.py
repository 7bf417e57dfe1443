"""Check that prompts and answers fit into a model's context, before anything is edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.success import contests
from easyedit_lifelong.models.load import context_length


def check_fit(requests: Sequence[EditRequest], scorer: Scorer, model: Any, retention: Sequence[Probe] = ()) -> None:
    """Check, before anything is edited, that every prompt and answer fits into the model's context.

    Args:
        requests: requests, whose probes and contested answers are checked too.
        scorer: the scorer that encodes them.
        model: the model, for the length of its context.
        retention: held-out facts.

    Raises:
        DataError: one doesn't; the message says which.
    """
    limit = context_length(model)
    texts = [(f"retention fact {n}", "prompt", "its answer", p.prompt, p.answer) for n, p in enumerate(retention)]
    texts += [(request.where, *text) for request in requests for text in _texts_of(request)]
    for where, field, answer_name, prompt, answer in texts:
        try:
            length = scorer.encode(prompt, answer).length
        except DataError as error:
            raise DataError(f"{where}, field {field!r}: {error}") from error
        if limit is not None and length > limit:
            raise DataError(
                f"{where}, field {field!r}: with {answer_name} it has {length} tokens, the model's "
                f"context is {limit}. Shorten it or leave the record out."
            )


_COMPARED = (("prompt", "ground_truth"), ("rephrase_prompt", "ground_truth"), ("locality_prompt", "target_new"))
"""The answer, by field, that ROME's scores compare each kind of prompt's own answer with."""


def _texts_of(request: EditRequest) -> Iterator[tuple[str, str, str, str]]:
    """Yield all prompts of a request with their answers: field, name of the answer, prompt, answer."""
    own = "its answer"
    yield "prompt", own, request.prompt, request.target_new
    for prompt in request.rephrase_prompts:
        yield "rephrase_prompt", own, prompt, request.target_new
    sets = {"locality": request.locality, "portability": request.portability}
    for kind, probes in (
        *((kind, probes) for kind, by_name in sets.items() for probes in by_name.values()),
        (RELATION_SPECIFICITY, request.relation_specificity),
    ):
        for probe in probes:
            yield f"{kind}_prompt", own, probe.prompt, probe.answer
    for (field, other), pairs in zip(_COMPARED, contests(request), strict=True):
        for contest in pairs:
            for prompt, answer in contest.questions:
                yield field, other, prompt, answer
