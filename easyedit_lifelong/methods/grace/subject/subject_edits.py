"""Edits that are found by their subjects (``query_token: subject_last``): their keys, gates, radii and passes.

GRACE searches its codebook with a prompt's last token, which a paraphrase moves further than another prompt does. A
subject's last token, early in the model, is moved by little: the text before it. So a key is taken
there, in the prompt and in a few texts that the hyperparameters give, and the value is trained to carry the fact in
contexts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.auto_radius import Neighbourhood, QueriesOf
from easyedit_lifelong.methods.grace.subject.contexts import Case, prepare_case
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.grace.subject.whitening import whitening_for
from easyedit_lifelong.methods.grace.training.layer_passes import LayerPasses
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectBatch:
    """A few edits, ready to be trained and entered.

    Attributes:
        value_pass: over their texts, the same number of rows for each edit.
        keys: their keys, shape ``(edits, key vectors * width)``.
        extras: what their values are stored with: gate and radius, shape ``(edits, any)``.
    """

    value_pass: ValuePass
    keys: Tensor
    extras: Tensor


class SubjectEdits:
    """Prepares edits that are found by their subjects.

    Args:
        model: the model.
        path: of the layer whose inputs are looked up.
        layer: that layer.
        adaptor: on the layer that answers.
        passes: of that layer.
    """

    def __init__(self, model: Any, path: str, layer: nn.Module, adaptor: SubjectAdaptor, passes: LayerPasses) -> None:
        self._model, self._path, self._layer = model, path, layer
        self._adaptor, self._passes = adaptor, passes
        self._neighbourhood: Neighbourhood | None = None

    def prepare(self, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams) -> list[Case]:
        """Put requests into their contexts.

        Raises:
            DataError: one of them can't be used; the message names the record and the field.
        """

        def encode(request: EditRequest, text: str) -> EncodedPair:
            return self._passes.encode(tokenizer, request, hparams.replacement, text)

        return [prepare_case(tokenizer, request, hparams, encode) for request in requests]

    def batch(self, tokenizer: Any, cases: Sequence[Case], hparams: GraceHyperParams, pad: int) -> SubjectBatch:
        """Return a few cases as a batch.

        Raises:
            CovarianceError: the second moments to whiten with aren't available.
            ModelError: the layer can't be looked up.
        """
        runner = Runner(self._model, tokenizer)
        if hparams.whiten and self._adaptor.whitening is None:
            LOG.info("second moments of %s, to whiten its inputs with", self._path)
            self._adaptor.whitening = whitening_for(self._model, tokenizer, self._path, hparams)

        def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
            return [self._adaptor.queries(inputs) for inputs in inputs_at(runner, self._layer, rows)]

        keys = _last_tokens(queries_of, [case.keys for case in cases])
        texts = [text for case in cases for text in case.texts]
        at = None if hparams.answer_layer else [text.subject for text in texts]
        value_pass = self._passes.of(self._adaptor, [text.pair for text in texts], 1, pad, at)
        extras = [keys.new_empty(len(cases), 0)]
        if hparams.gate_eps is not None:
            extras.append(value_pass.query[:: len(cases[0].texts)].to(keys.device))
        if hparams.eps == "auto":
            extras.append(self._radii(tokenizer, cases, keys, hparams, queries_of))
        return SubjectBatch(value_pass, keys.flatten(1), torch.cat(extras, dim=1))

    def _radii(
        self, tokenizer: Any, cases: Sequence[Case], keys: Tensor, hparams: GraceHyperParams, queries_of: QueriesOf
    ) -> Tensor:
        """Return the radius that each key starts with, ``(edits, 1)``."""
        if self._neighbourhood is None:
            self._neighbourhood = Neighbourhood(
                queries_of, tokenizer, hparams.dist_fn, hparams.key_templates, hparams.false_fire_rate
            )
        contexts = [[one.pair.prompt[: one.subject + 1] for one in case.texts if one.pair.target] for case in cases]
        radii = [
            self._neighbourhood.radius(key, (case.request.subject or "").strip(), again)
            for case, key, again in zip(cases, keys, _last_tokens(queries_of, contexts), strict=True)
        ]
        return torch.tensor(radii, device=keys.device).unsqueeze(1)


def _last_tokens(queries_of: QueriesOf, rows: Sequence[Sequence[list[int]]]) -> Tensor:
    """Return the query of each row's last token, ``(edits, rows of each, width)``."""
    ends = torch.stack([queries[-1] for queries in queries_of([row for own in rows for row in own])])
    return ends.view(len(rows), -1, ends.shape[1])
