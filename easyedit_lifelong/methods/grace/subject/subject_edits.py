"""Edits that are found by their subjects (``query_token: subject_last``): their keys, gates, radii and training passes.

GRACE looks up the activation of a prompt's last token. A paraphrase can change that activation more than a different
question does. The activation of the subject's last token does not depend on the text after it, and in an early layer
it changes little with the text before it. The keys of an edit are therefore taken there: in its prompt and in each key
template. The value is trained on the prompt and on the context templates.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import is_function_word
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.model_statistics import (
    ModelStatistics,
    check_padding,
    needs_relation_metric,
)
from easyedit_lifelong.methods.grace.subject.request_texts import RequestTexts, encode_request_texts
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.grace.training.further_keys import first_part
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.methods.shared.subject_keys.auto_radius import Neighbourhood, QueriesOf
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectBatch:
    """Edits that are ready to be trained and added to the codebook.

    Attributes:
        value_pass: the training pass over their texts; every edit has the same number of rows.
        keys: their keys, shape ``(edits, key vectors * width)``.
        extras: the gate and the radius that are stored with each value, as far as the hyperparameters ask for them;
            shape ``(edits, extras)``.
    """

    value_pass: ValuePass
    keys: Tensor
    extras: Tensor


class SubjectEdits:
    """Prepares edits that are found by their subjects.

    Args:
        model: the model.
        layer: the key layer, whose inputs are looked up.
        adaptor: the adaptor on the layer that answers.
        passes: builds training passes with values at the layer that answers.
    """

    def __init__(self, model: Any, layer: nn.Module, adaptor: SubjectAdaptor, passes: LayerPasses) -> None:
        self._model, self._layer = model, layer
        self._adaptor, self._passes = adaptor, passes
        self._neighbourhood: Neighbourhood | None = None
        self._has_statistics = False

    def prepare(self, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams) -> list[RequestTexts]:
        """Encode each request's training texts and key texts.

        If a subject is a function word, such as "In", its key would match in texts about anything. Then the prompt
        takes its place: the edit answers where the prompt's own words are.

        Args:
            tokenizer: the model's.
            requests: the requests.
            hparams: GRACE's hyperparameters.

        Raises:
            DataError: a request can't be used; the message names the record and the field.
            ModelError: padding changes the model's answers, so that the texts of an edit can't be trained in one pass.
        """
        check_padding(self._model)

        def encode(request: EditRequest, text: str) -> EncodedPair:
            return self._passes.encode(tokenizer, request, hparams, text)

        found = [_with_telling_subject(request) for request in requests]
        return [encode_request_texts(tokenizer, request, hparams, encode) for request in found]

    def batch(
        self, tokenizer: Any, encoded: Sequence[RequestTexts], hparams: GraceHyperParams, pad: int
    ) -> SubjectBatch:
        """Compute the keys, gates and radii of edits, and the pass that trains their values.

        Args:
            tokenizer: the model's.
            encoded: the requests with their encoded texts.
            hparams: GRACE's hyperparameters.
            pad: id of the padding token.

        Raises:
            CovarianceError: the second moments for whitening aren't available.
            ModelError: the inputs of the key layer or the answer layer can't be read, or can't be whitened.
        """
        if not self._has_statistics:
            self._get_statistics(tokenizer, hparams)
        runner = Runner(self._model, tokenizer)

        def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
            return [self._adaptor.queries(inputs) for inputs in inputs_at(runner, self._layer, rows)]

        keys = _last_queries(queries_of, [request_texts.key_rows for request_texts in encoded])
        texts = [text for request_texts in encoded for text in request_texts.texts]
        value_tokens = None if hparams.answer_layer else [text.subject_end for text in texts]
        pairs = [first_part(text.pair, hparams.tokens_per_key) for text in texts]
        value_pass = self._passes.build(self._adaptor, pairs, 1, pad, value_tokens)
        extras = [keys.new_empty(len(encoded), 0)]  # no columns, in case neither gates nor radii are stored
        if hparams.gate_eps is not None:
            texts_per_edit = len(encoded[0].texts)  # the first of them is the edit's own prompt
            extras.append(value_pass.query[::texts_per_edit].to(keys.device))
        if self._neighbourhood is not None:
            extras.append(_radii(self._neighbourhood, encoded, keys, queries_of))
        return SubjectBatch(value_pass, keys.flatten(1), torch.cat(extras, dim=1))

    def _get_statistics(self, tokenizer: Any, hparams: GraceHyperParams) -> None:
        """Get the model's statistics that the hyperparameters ask for. Those of loaded edits stay.

        All edits of a codebook share the settings that determine the statistics.
        """
        statistics, adaptor = ModelStatistics(self._model, tokenizer, hparams), self._adaptor
        if hparams.whiten and adaptor.whitening is None:
            adaptor.whitening = statistics.whitening()
        if needs_relation_metric(hparams) and adaptor.relation_metric is None:
            adaptor.relation_metric = statistics.relation_metric()
        if hparams.eps == "auto":
            self._neighbourhood = statistics.neighbourhood(adaptor.whitening)
        self._has_statistics = True


def _with_telling_subject(request: EditRequest) -> EditRequest:
    """Return a request whose subject is its prompt if the given one is a function word; else the request."""
    if request.subject is None or not is_function_word(request.subject):
        return request
    LOG.warning(
        "%s, field 'subject': %r occurs in texts about anything, so the edit is found by its whole prompt. To find it "
        "in paraphrases, name the entity that the fact is about.",
        request.where,
        request.subject.strip(),
    )
    return dataclasses.replace(request, subject=request.question.strip())


def _radii(
    neighbourhood: Neighbourhood, encoded: Sequence[RequestTexts], keys: Tensor, queries_of: QueriesOf
) -> Tensor:
    """Return each key's initial radius by ``eps: auto``, ``(edits, 1)``."""
    contexts = [
        [text.pair.prompt[: text.subject_end + 1] for text in request_texts.texts if text.pair.target]
        for request_texts in encoded
    ]
    subjects = [(request_texts.request.subject or "").strip() for request_texts in encoded]
    radii = [
        neighbourhood.radius(key, subject, context_queries)
        for key, subject, context_queries in zip(keys, subjects, _last_queries(queries_of, contexts), strict=True)
    ]
    return torch.tensor(radii, device=keys.device).unsqueeze(1)


def _last_queries(queries_of: QueriesOf, rows_by_edit: Sequence[Sequence[list[int]]]) -> Tensor:
    """Return the query of each row's last token, ``(edits, rows per edit, width)``."""
    all_rows = [row for rows in rows_by_edit for row in rows]
    last = torch.stack([queries[-1] for queries in queries_of(all_rows)])
    return last.view(len(rows_by_edit), -1, last.shape[1])
