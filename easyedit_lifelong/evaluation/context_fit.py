"""The check that prompts and answers fit into a model's context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.success import answer_pairs
from easyedit_lifelong.models.load import context_length


def check_fit(requests: Sequence[EditRequest], scorer: Scorer, model: Any, retention: Sequence[Probe] = ()) -> None:
    """Check that every prompt fits into the model's context, together with its answers.

    Args:
        requests: the requests; all their prompts are checked, with all answers that scoring compares.
        scorer: the scorer that encodes them.
        model: the model, for the length of its context.
        retention: held-out facts.

    Raises:
        DataError: a prompt and its answer cannot be encoded, or are too long; the message names request and field.
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


_COMPARED_FIELDS = (("prompt", "ground_truth"), ("rephrase_prompt", "ground_truth"), ("locality_prompt", "target_new"))
"""For each kind of prompt, in the order of :func:`answer_pairs`: the prompt's field, and the field of the answer that
ROME's scores compare with the prompt's own answer."""


def _texts_of(request: EditRequest) -> Iterator[tuple[str, str, str, str]]:
    """Yield the prompts of a request with their answers: field, name of the answer in messages, prompt, answer."""
    own_answer = "its answer"
    yield "prompt", own_answer, request.prompt, request.target_new
    for prompt in request.rephrase_prompts:
        yield "rephrase_prompt", own_answer, prompt, request.target_new
    probe_sets = {"locality": request.locality, "portability": request.portability}
    for kind, probes in (
        *((kind, probes) for kind, by_name in probe_sets.items() for probes in by_name.values()),
        (RELATION_SPECIFICITY, request.relation_specificity),
    ):
        for probe in probes:
            yield f"{kind}_prompt", own_answer, probe.prompt, probe.answer
    for (field, other_field), pairs in zip(_COMPARED_FIELDS, answer_pairs(request), strict=True):
        for pair in pairs:
            for prompt, answer in pair.questions:
                yield field, other_field, prompt, answer
