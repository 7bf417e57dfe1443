"""Compute the keys of edited subjects and their radii, for ``scope_score: codebook``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.subject_scope import SubjectKeys
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, normalized
from easyedit_lifelong.methods.shared.subject_keys.key_texts import key_texts, question_span
from easyedit_lifelong.methods.shared.subject_keys.model_neighbourhood import neighbourhood_at
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.runner import Runner


class KeyMaker:
    """Computes the keys of subjects at the scope layer.

    Args:
        runner: runs the model.
        path: the path of the scope layer.
        layer: the scope layer.
        hparams: the hyperparameters.
        whitening: the matrix that queries are whitened with.
    """

    def __init__(
        self, runner: Runner, path: str, layer: nn.Module, hparams: CoachHookHyperParams, whitening: Tensor
    ) -> None:
        self._runner, self._layer, self._templates = runner, layer, hparams.key_templates
        self._whitening = whitening
        self._neighbourhood = neighbourhood_at(
            runner.model,
            runner.tokenizer,
            path,
            layer,
            whitening,
            dist_fn=COS,
            key_templates=hparams.key_templates,
            false_fire_rate=hparams.false_fire_rate,
        )

    def keys(self, facts: Sequence[Fact]) -> SubjectKeys:
        """Return the keys of facts.

        The radius of a key contains its subject in the contexts of its fact; see :mod:`.auto_radius`.

        Args:
            facts: the facts.
        """
        rows = [self._key_rows(fact) for fact in facts]
        vectors = self._last_queries(rows)
        contexts = self._last_queries([[row.prompt[: row.lookup + 1] for row in fact.contexts] for fact in facts])
        radii = [
            self._neighbourhood.radius(key, (fact.request.subject or "").strip(), context_queries)
            for key, fact, context_queries in zip(vectors, facts, contexts, strict=True)
        ]
        unit = torch.stack([normalized(key, COS).flatten() for key in vectors], dim=1)
        return SubjectKeys(unit.cpu(), torch.tensor([radii], dtype=torch.float32), self._whitening.cpu())

    def _key_rows(self, fact: Fact) -> list[list[int]]:
        """Return the token rows whose last tokens give the key vectors of a fact."""
        request = fact.request
        span = question_span(request)
        return key_texts(self._runner.tokenizer, request.question, span, self._templates, request.frame)

    def _queries(self, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return the whitened inputs of the scope layer, one tensor ``(tokens, width)`` for each row."""
        return [
            whitened(inputs, self._whitening.to(inputs.device)) for inputs in inputs_at(self._runner, self._layer, rows)
        ]

    def _last_queries(self, rows_by_fact: Sequence[Sequence[list[int]]]) -> list[Tensor]:
        """Return the query at the last token of each row, one tensor ``(rows, width)`` for each fact."""
        last = iter([queries[-1] for queries in self._queries([row for rows in rows_by_fact for row in rows])])
        return [torch.stack([next(last) for _ in rows]) for rows in rows_by_fact]
