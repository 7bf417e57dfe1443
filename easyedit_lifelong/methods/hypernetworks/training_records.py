"""Training records: an edit, its paraphrases and its locality prompts as token ids."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.shared.encoded_requests import encode_request
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.pair_encoders import Encode, encoder_for


@dataclass(frozen=True)
class ChosenRecord:
    """A training record with one paraphrase and one locality prompt.

    Attributes:
        edit: the edit, (x_e, y_e) in the paper.
        paraphrase: a paraphrase of its prompt, with the target of the edit: (x_e', y_e').
        locality: a prompt whose answer must not change, with an answer: x_loc.
    """

    edit: Example
    paraphrase: Example
    locality: Example


@dataclass(frozen=True)
class TrainingRecord:
    """A request as a network is trained on it.

    Attributes:
        edit: the edit.
        paraphrases: paraphrases of its prompt, with its target; the edit itself if it has none.
        locality: prompts whose answers must not change; at least one.
    """

    edit: Example
    paraphrases: tuple[Example, ...]
    locality: tuple[Example, ...]

    def choose(self, choices: random.Random) -> ChosenRecord:
        """Return the record with one paraphrase and one locality prompt, chosen at random."""
        return ChosenRecord(self.edit, choices.choice(self.paraphrases), choices.choice(self.locality))


def encode_record(model: Any, tokenizer: Any, request: EditRequest, eos: bool) -> TrainingRecord:
    """Encode a request for the training.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        request: the request.
        eos: end targets with the end-of-text token.

    Raises:
        DataError: a text has no tokens or is too long for the model, or the request has no locality prompt.
    """
    encode, limit = encoder_for(model, tokenizer, eos=eos), context_length(model)
    texts = request.rephrase_prompts or (request.prompt,)
    paraphrases = tuple(Example.of(request.where, encode_request(encode, request, limit, text)) for text in texts)
    probes = [probe for probes in request.locality.values() for probe in probes] + list(request.relation_specificity)
    if not probes:
        raise DataError(
            f"{request.where}, field 'locality_prompt': is missing. The network learns from it which answers must not "
            "change. Give the record one, or leave it out."
        )
    encode_locality = encoder_for(model, tokenizer)
    locality = tuple(_locality_example(encode_locality, request, probe, limit) for probe in probes)
    edit = Example.of(request.where, encode_request(encode, request, limit))
    return TrainingRecord(edit, paraphrases, locality)


def _locality_example(encode: Encode, request: EditRequest, probe: Probe, limit: int | None) -> Example:
    """Encode a locality prompt with its answer.

    Raises:
        DataError: it has no tokens, or is too long for the model.
    """
    try:
        pair = encode(probe.prompt, probe.answer)
    except DataError as error:
        raise DataError(f"{request.where}, field 'locality_prompt': {error}") from error
    if limit is not None and pair.length > limit:
        raise DataError(
            f"{request.where}, field 'locality_prompt': with its answer it has {pair.length} tokens, the model's "
            f"context is {limit}. Shorten it or leave the record out."
        )
    return Example.of(request.where, pair)
