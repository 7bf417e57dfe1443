"""Edits that are found by their subjects (``query_token: subject_last``): their keys, gates, radii and lessons.

GRACE asks its codebook with a prompt's last token, which a paraphrase moves further than another prompt does. A
subject's last token, early in the model, is moved by little: what stands before it in the text. So a key is taken
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
from easyedit_lifelong.methods.grace.subject.activations import inputs_at
from easyedit_lifelong.methods.grace.subject.auto_radius import Neighbourhood
from easyedit_lifelong.methods.grace.subject.contexts import Case, prepare_case
from easyedit_lifelong.methods.grace.subject.subject_layer import SubjectAdaptor
from easyedit_lifelong.methods.grace.subject.whitening import whitening_for
from easyedit_lifelong.methods.grace.training.value_pass import Lesson, Lessons
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.runner import Runner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectLesson:
    """A few edits, ready to be trained and entered.

    Attributes:
        lesson: passes with their values in place, the same number of rows for each.
        queries: their keys, shape ``(edits, views * width)``.
        behind: what their values bring along: gate and radius, shape ``(edits, any)``.
    """

    lesson: Lesson
    queries: Tensor
    behind: Tensor


class SubjectEdits:
    """Makes edits by their subjects ready.

    Args:
        model: the model.
        path: of the layer whose inputs are looked up.
        layer: that layer.
        adaptor: on the layer that answers.
        lessons: of that layer.
    """

    def __init__(self, model: Any, path: str, layer: nn.Module, adaptor: SubjectAdaptor, lessons: Lessons) -> None:
        self._model, self._path, self._layer = model, path, layer
        self._adaptor, self._lessons = adaptor, lessons
        self._neighbourhood: Neighbourhood | None = None

    def prepare(self, tokenizer: Any, requests: Sequence[EditRequest], hparams: GraceHyperParams) -> list[Case]:
        """Put requests into their contexts.

        Raises:
            DataError: one of them can't be used; the message names the record and the field.
        """

        def encode(request: EditRequest, text: str) -> EncodedPair:
            return self._lessons.encode(tokenizer, request, hparams.replacement, text)

        return [prepare_case(tokenizer, request, hparams, encode) for request in requests]

    def lesson(self, tokenizer: Any, cases: Sequence[Case], hparams: GraceHyperParams, pad: int) -> SubjectLesson:
        """Return the lesson of a few cases.

        Raises:
            CovarianceError: the second moments to whiten with can't be had.
            ModelError: the layer can't be looked up.
        """
        runner = Runner(self._model, tokenizer)
        if hparams.whiten and self._adaptor.whitening is None:
            LOG.info("second moments of %s, to whiten its inputs with", self._path)
            self._adaptor.whitening = whitening_for(self._model, tokenizer, self._path, hparams)

        def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
            return [self._adaptor.queries(inputs) for inputs in inputs_at(runner, self._layer, rows)]

        ends = torch.stack([part[-1] for part in queries_of([row for case in cases for row in case.keys])])
        keys = ends.view(len(cases), hparams.views, -1)
        at = None if hparams.answer_layer else [told.subject for case in cases for told in case.told]
        lesson = self._lessons.of(self._adaptor, [told.pair for case in cases for told in case.told], 1, pad, at)
        behind = [keys.new_empty(len(cases), 0)]
        if hparams.gate_eps is not None:
            behind.append(lesson.query[:: len(cases[0].told)].to(keys.device))
        if hparams.eps == "auto":
            behind.append(self._radii(tokenizer, cases, keys, hparams, queries_of))
        return SubjectLesson(lesson, keys.flatten(1), torch.cat(behind, dim=1))

    def _radii(
        self, tokenizer: Any, cases: Sequence[Case], keys: Tensor, hparams: GraceHyperParams, queries_of: Any
    ) -> Tensor:
        """Return the radius that each key starts with, ``(edits, 1)``."""
        if self._neighbourhood is None:
            self._neighbourhood = Neighbourhood(
                queries_of, tokenizer, hparams.dist_fn, hparams.key_templates, hparams.false_fire_rate
            )
        rows = [
            [told.pair.prompt[: told.subject + 1] for told in case.told if told.pair.target] for case in cases
        ]  # fmt: skip
        ends = torch.stack([part[-1] for part in queries_of([row for own in rows for row in own])])
        radii = [
            self._neighbourhood.radius(views, (case.request.subject or "").strip(), again)
            for case, views, again in zip(cases, keys, ends.view(len(cases), -1, ends.shape[1]), strict=True)
        ]
        return torch.tensor(radii, device=keys.device).unsqueeze(1)
