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
from typing import Any, NamedTuple

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
from easyedit_lifelong.methods.grace.subject.request_texts import OtherName, RequestTexts, encode_request_texts
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.grace.training.further_keys import first_part
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.train_batch import OtherKey
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
        other_keys: for each edit, the keys of the other names of its subject.
    """

    value_pass: ValuePass
    keys: Tensor
    extras: Tensor
    other_keys: list[list[OtherKey]]


class _NamedKey(NamedTuple):
    """The key of one name of a subject.

    Attributes:
        name: the name.
        key: its key vectors, ``(key vectors, width)``.
        context_rows: token ids of the edit's contexts up to the name's last token.
    """

    name: str
    key: Tensor
    context_rows: list[list[int]]


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
        gates = keys.new_empty(len(encoded), 0)
        if hparams.gate_eps is not None:
            texts_per_edit = len(encoded[0].texts)  # the first of them is the edit's own prompt
            gates = value_pass.query[::texts_per_edit].to(keys.device)
        subjects = [
            _NamedKey((request_texts.request.subject or "").strip(), key, request_texts.context_rows)
            for request_texts, key in zip(encoded, keys, strict=True)
        ]
        extras = torch.cat([gates, self._radii(subjects, queries_of, keys)], dim=1)
        other_keys = [
            self._other_keys(request_texts.other_names, gate, queries_of)
            for request_texts, gate in zip(encoded, gates, strict=True)
        ]
        return SubjectBatch(value_pass, keys.flatten(1), extras, other_keys)

    def _other_keys(self, names: Sequence[OtherName], gate: Tensor, queries_of: QueriesOf) -> list[OtherKey]:
        """Return the keys of the other names of an edit's subject.

        Args:
            names: the names.
            gate: the edit's gate, ``(gate_size,)``; every name has the gate of the edit's prompt.
            queries_of: returns the key layer's queries for rows of tokens.
        """
        if not names:
            return []
        keys = _last_queries(queries_of, [name.key_rows for name in names])
        named = [_NamedKey(name.name, key, name.context_rows) for name, key in zip(names, keys, strict=True)]
        radii = self._radii(named, queries_of, keys)
        return [OtherKey(key.flatten(), torch.cat([gate, radius])) for key, radius in zip(keys, radii, strict=True)]

    def _radii(self, names: Sequence[_NamedKey], queries_of: QueriesOf, keys: Tensor) -> Tensor:
        """Return each key's initial radius by ``eps: auto``, ``(keys, 1)``; ``(keys, 0)`` without it.

        Args:
            names: the keys.
            queries_of: returns the key layer's queries for rows of tokens.
            keys: gives the tensor's dtype and device.
        """
        if self._neighbourhood is None:
            return keys.new_empty(len(names), 0)
        context_queries = _last_queries(queries_of, [named.context_rows for named in names])
        radii = [
            self._neighbourhood.radius(named.key, named.name, queries)
            for named, queries in zip(names, context_queries, strict=True)
        ]
        return torch.tensor(radii, device=keys.device).unsqueeze(1)

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
    """Return a request without names that are function words: its prompt takes the place of such a subject."""
    aliases = [alias for alias in request.aliases if not is_function_word(alias)]
    if len(aliases) < len(request.aliases):
        LOG.warning(
            "%s, field 'aliases': function words occur in texts about anything, so these are left out: %s",
            request.where,
            ", ".join(repr(alias) for alias in request.aliases if is_function_word(alias)),
        )
        request = dataclasses.replace(request, aliases=tuple(aliases))
    if request.subject is None or not is_function_word(request.subject):
        return request
    LOG.warning(
        "%s, field 'subject': %r occurs in texts about anything, so the edit is found by its whole prompt. To find it "
        "in paraphrases, name the entity that the fact is about.",
        request.where,
        request.subject.strip(),
    )
    return dataclasses.replace(request, subject=request.question.strip(), aliases=())


def _last_queries(queries_of: QueriesOf, rows_by_edit: Sequence[Sequence[list[int]]]) -> Tensor:
    """Return the query of each row's last token, ``(edits, rows per edit, width)``."""
    all_rows = [row for rows in rows_by_edit for row in rows]
    last = torch.stack([queries[-1] for queries in queries_of(all_rows)])
    return last.view(len(rows_by_edit), -1, last.shape[1])
