"""What edits by subject need to know about a model: the whitening, the relation metric, and the neighbourhood of keys.

:func:`prepare_statistics` computes them before the first edit; without it, the first edit does. They stay in memory as
long as the model, so that an editor which is made anew, after a rollback of all edits, does not compute them again.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.config import RELATIONS, GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_answer_layer, find_layer
from easyedit_lifelong.methods.grace.subject.relation_prompts import relation_metric_for
from easyedit_lifelong.methods.shared.model_values import ModelValues, values_of
from easyedit_lifelong.methods.shared.subject_keys.auto_radius import Neighbourhood
from easyedit_lifelong.methods.shared.subject_keys.model_neighbourhood import neighbourhood_at
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitening_for
from easyedit_lifelong.models.padding import padding_changes_answers
from easyedit_lifelong.models.wrappers import model_to_edit

LOG = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the number of tokens (or documents) read so far, and the total."""

_MOMENT_SETTINGS = (
    "stats_dir",
    "mom2_dataset",
    "mom2_n_samples",
    "mom2_n_tokens",
    "mom2_dtype",
    "mom2_engine",
    "seed",
)
"""Hyperparameters that determine the second moments of a layer."""


class ModelStatistics:
    """The statistics of a model that hyperparameters ask for. Each is computed once for the model's present weights.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.
        progress: called while the model reads texts.

    Raises:
        ModelError: the model has no such layer.
    """

    def __init__(self, model: Any, tokenizer: Any, hparams: GraceHyperParams, progress: Progress | None = None) -> None:
        self._model, self._tokenizer, self._hparams, self._progress = model, tokenizer, hparams, progress
        self._path, self._layer = find_layer(model, hparams)

    def whitening(self) -> Tensor:
        """Return the whitening matrix of the key layer's inputs; see :func:`.whitening_of`.

        Raises:
            CovarianceError: a stored file can't be used, or the corpus isn't available.
            ModelError: the key layer is not a linear projection.
        """
        settings = (self._tokenizer, self._path, *(getattr(self._hparams, name) for name in _MOMENT_SETTINGS))

        def compute() -> Tensor:
            LOG.info("%s: getting the second moments that its inputs are whitened with", self._path)
            return whitening_for(self._model, self._tokenizer, self._path, self._hparams, self._progress)

        return self._values.get("whitening", settings, compute)

    def relation_metric(self) -> RelationMetric:
        """Return the relation metric of the answer layer's inputs; see :func:`.relation_metric_for`.

        Raises:
            ModelError: the inputs of the answer layer can't be read.
            OSError: the metric can't be stored.
        """
        named = find_answer_layer(self._model, self._hparams)
        assert named is not None  # the hyperparameters have been checked
        settings = (self._tokenizer, named[0], self._hparams.stats_dir)
        arguments = (self._model, self._tokenizer, self._hparams, self._progress)
        return self._values.get("relation metric", settings, lambda: relation_metric_for(*arguments))

    def neighbourhood(self, whitening: Tensor | None) -> Neighbourhood:
        """Return the neighbourhood of the keys, for ``eps: auto``.

        Args:
            whitening: the matrix that the keys are whitened with; None for no whitening.

        Raises:
            ModelError: the inputs of the key layer can't be read.
        """
        hparams = self._hparams
        return neighbourhood_at(
            self._model,
            self._tokenizer,
            self._path,
            self._layer,
            whitening,
            dist_fn=hparams.dist_fn,
            key_templates=hparams.key_templates,
            false_fire_rate=hparams.false_fire_rate,
        )

    @functools.cached_property
    def _values(self) -> ModelValues:
        """The values that are kept for the model."""
        return values_of(self._model)


def prepare_statistics(model: Any, tokenizer: Any, hparams: GraceHyperParams, progress: Progress | None = None) -> None:
    """Compute the statistics of a model that the hyperparameters ask for. GRACE's ``prepare`` port.

    The second moments for whitening and the relation metric of the gate are stored on disk, too.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: GRACE's hyperparameters.
        progress: called with the number of tokens (or documents) read so far, and the total.

    Raises:
        CovarianceError: a stored file can't be used, or the corpus isn't available.
        EditError: the model can't compute gradients.
        ModelError: padding changes the model's answers, the key layer is not a linear projection, or the inputs of a
            layer can't be read.
        OSError: the relation metric can't be stored.
    """
    if not hparams.by_subject:
        return
    model = model_to_edit(model)
    check_padding(model)
    statistics = ModelStatistics(model, tokenizer, hparams, progress)
    whitening = statistics.whitening() if hparams.whiten else None
    if needs_relation_metric(hparams):
        statistics.relation_metric()
    if hparams.eps == "auto":
        statistics.neighbourhood(whitening)


def needs_relation_metric(hparams: GraceHyperParams) -> bool:
    """Return whether hyperparameters ask for a relation metric."""
    return hparams.gate_eps is not None and hparams.gate_metric == RELATIONS


def check_padding(model: Any) -> None:
    """Check that the texts of an edit can be trained in one pass.

    Raises:
        ModelError: padding changes the model's answers.
    """
    if padding_changes_answers(model):
        raise ModelError(
            "query_token: subject_last trains an edit on several texts, padded on the left to one length, but "
            f"padding changes the answers of {type(model).__name__}. Use prompt_last."
        )
