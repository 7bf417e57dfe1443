"""The check that prompts and answers fit into a model's context."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    texts = [
        AnsweredPrompt(f"retention fact {number}", "prompt", fact.prompt, fact.answer)
        for number, fact in enumerate(retention)
    ]
    texts += [text for request in requests for text in _texts_of(request)]
    check_texts_fit(texts, scorer, model)


def check_texts_fit(texts: Iterable[AnsweredPrompt], scorer: Scorer, model: Any) -> None:
    """Check that texts fit into the model's context.

    Args:
        texts: the texts.
        scorer: the scorer that encodes them.
        model: the model, for the length of its context.

    Raises:
        DataError: a text cannot be encoded, or is too long; the message names its request and field.
    """
    limit = context_length(model)
    for text in texts:
        try:
            length = scorer.encode(text.prompt, text.answer).length
        except DataError as error:
            raise DataError(f"{text.where}, field {text.field!r}: {error}") from error
        if limit is not None and length > limit:
            raise DataError(
                f"{text.where}, field {text.field!r}: with {text.answer_name} it has {length} tokens, the model's "
                f"context is {limit}. Shorten it or leave the record out."
            )


@dataclass(frozen=True)
class AnsweredPrompt:
    """A prompt with an answer, which the model reads as one text.

    Attributes:
        where: the request or the held-out fact, for messages.
        field: the field of the prompt.
        prompt: the prompt.
        answer: the answer.
        answer_name: what messages call the answer: "its answer", or another field of the request.
    """

    where: str
    field: str
    prompt: str
    answer: str
    answer_name: str = "its answer"


_COMPARED_FIELDS = (("prompt", "ground_truth"), ("rephrase_prompt", "ground_truth"), ("locality_prompt", "target_new"))
"""For each kind of prompt, in the order of :func:`answer_pairs`: the field of the prompt, and the field of the answer
that ROME's scores compare with the prompt's own answer. A message about either answer names the latter field."""


def _texts_of(request: EditRequest) -> Iterator[AnsweredPrompt]:
    """Yield the prompts of a request, each with its own answer, then with the answers that ROME's scores compare."""
    where = request.where
    yield AnsweredPrompt(where, "prompt", request.prompt, request.target_new)
    for prompt in request.rephrase_prompts:
        yield AnsweredPrompt(where, "rephrase_prompt", prompt, request.target_new)
    probe_sets = [
        *(("locality_prompt", probes) for probes in request.locality.values()),
        *(("portability_prompt", probes) for probes in request.portability.values()),
        (f"{RELATION_SPECIFICITY}_prompt", request.relation_specificity),
    ]
    for field, probes in probe_sets:
        for probe in probes:
            yield AnsweredPrompt(where, field, probe.prompt, probe.answer)
    for (prompt_field, answer_field), pairs in zip(_COMPARED_FIELDS, answer_pairs(request), strict=True):
        for pair in pairs:
            for prompt, answer in pair.questions:
                yield AnsweredPrompt(where, prompt_field, prompt, answer, answer_field)
