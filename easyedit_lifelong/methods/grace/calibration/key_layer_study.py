"""The study of key layers: for each layer and distance, how many paraphrases match their edit's key.

The study needs forward passes only. A record's key vectors are a layer's inputs at the last token of its subject, in
its prompt and in each key template. A paraphrase's query is taken at the last token of its subject. A locality prompt
*fires* if any of its tokens matches a key (a false fire). The study compares two kinds of radii: one *common radius*
for all keys, as wide as a permitted share of firing locality prompts allows, and the radii of ``eps: auto``, one for
each key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.calibration.key_matching import KeyMatching
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.study_texts import StudyTexts
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.shared.sample_sentences import Sentences, sample_sentences
from easyedit_lifelong.methods.shared.subject_keys.auto_radius import Neighbourhood
from easyedit_lifelong.methods.shared.subject_keys.distance import COS, EUC
from easyedit_lifelong.methods.shared.subject_keys.key_texts import key_texts
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.models.encoding import encode_text

WHITENED = "cos, whitened"
"""The cosine distance between whitened activations."""

DISTANCES = (EUC, COS, WHITENED)
"""The distances that are studied."""

MENTIONS = 0.99
"""The share of the mentions of a subject that must match where the words of the text name it (``named_eps``)."""

RATES = (0.005, 0.01, 0.02, 0.05)
"""The shares of firing locality prompts at which common radii are studied."""


@dataclass(frozen=True)
class RadiusResult:
    """How many prompts match at a deferral radius.

    Attributes:
        rate: the permitted share of firing locality prompts; None for ``eps: auto``.
        eps: the common radius of all keys; for ``eps: auto``, the median of the keys' radii.
        found: share of paraphrases whose nearest key is the right one and matches; higher is better.
        fires: share of locality prompts in which a token matches a key (false fires); lower is better.
    """

    rate: float | None
    eps: float
    found: float
    fires: float


@dataclass(frozen=True)
class KeyLayerResult:
    """How well paraphrases match their keys at one layer, by one distance.

    Attributes:
        layer: the layer's path.
        distance: one of :data:`DISTANCES`.
        right: share of paraphrases whose nearest key is the right one, whether or not it matches.
        common: the results at common radii, one for each rate of :func:`rates_with`.
        auto: the result at the radii of ``eps: auto``.
        mentions: the distance within which :data:`MENTIONS` of the paraphrases find a key of their own record.
    """

    layer: str
    distance: str
    right: float
    common: tuple[RadiusResult, ...]
    auto: RadiusResult
    mentions: float

    def at(self, rate: float) -> RadiusResult:
        """Return the result at the common radius of a false-fire rate."""
        return next(result for result in self.common if result.rate == rate)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> KeyLayerResult:
        """Build a result from the values of ``dataclasses.asdict``, as read back from JSON."""
        common = tuple(RadiusResult(**entry) for entry in values["common"])
        return cls(**{**values, "common": common, "auto": RadiusResult(**values["auto"])})


def study_key_layers(
    inputs: LayerInputs,
    layers: Sequence[str],
    texts: StudyTexts,
    bases: Mapping[str, Tensor],
    tokenizer: Any,
    hparams: GraceHyperParams,
    rate: float,
    progress: Progress = no_progress,
) -> list[KeyLayerResult]:
    """Return how well paraphrases match their keys at each layer, by each distance.

    Args:
        inputs: the layers' inputs.
        layers: the layers' paths.
        texts: the records' texts.
        bases: each layer's whitening matrix, by path; see :func:`.whitening_of`.
        tokenizer: the model's.
        hparams: GRACE's hyperparameters, for their templates.
        rate: the false-fire rate of ``eps: auto``; one of the common radii is studied at it, too.
        progress: called with the number of rows read so far, and the total.
    """
    sentences = sample_sentences()
    # Read every row that is needed below in one pass, the sentences of the neighbourhoods included.
    rows = [*texts.keys, *(row for rows in texts.contexts for row in rows), *texts.paraphrases, *texts.locality]
    rows += [encode_text(tokenizer, text) for text in sentences.texts]
    for subject, prompt in sentences.subjects:
        if (span := find_subject(prompt, subject)) is not None:
            rows += key_texts(tokenizer, prompt, span, hparams.key_templates)
    inputs.read(rows, progress)
    results = []
    for path in layers:
        for distance in DISTANCES:
            queries = _LayerQueries(inputs, path, bases[path] if distance == WHITENED else None)
            results.append(_study_layer(queries, distance, texts, tokenizer, hparams, rate, sentences))
    return results


def rates_with(rate: float) -> list[float]:
    """Return the false-fire rates of the common radii, ascending: the default rates and the given one."""
    return sorted({*RATES, rate})


def dist_fn_of(distance: str) -> str:
    """Return the value of the hyperparameter ``dist_fn`` for one of :data:`DISTANCES`."""
    return COS if distance == WHITENED else distance


@dataclass(frozen=True)
class _LayerQueries:
    """The queries of one layer in one key space.

    Attributes:
        inputs: the layers' inputs.
        path: path of the layer.
        basis: its whitening matrix; None for no whitening.
    """

    inputs: LayerInputs
    path: str
    basis: Tensor | None

    def of(self, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return the queries of all tokens of each row, ``(tokens, width)``."""
        return [whitened(vectors, self.basis) for vectors in self.inputs.at(self.path, rows)]

    def at_ends(self, rows: Sequence[list[int]]) -> Tensor:
        """Return the query of each row's last token, ``(rows, width)``."""
        return torch.stack([queries[-1] for queries in self.of(rows)])


def _study_layer(
    queries: _LayerQueries,
    distance: str,
    texts: StudyTexts,
    tokenizer: Any,
    hparams: GraceHyperParams,
    rate: float,
    sentences: Sentences,
) -> KeyLayerResult:
    """Return how well paraphrases match their keys at one layer, by one distance."""
    dist_fn = dist_fn_of(distance)
    keys = queries.at_ends(texts.keys).view(len(texts.subjects), hparams.vectors_per_key, -1)
    matching = KeyMatching(keys, dist_fn, queries.at_ends(texts.paraphrases), queries.of(texts.locality), texts)
    neighbourhood = Neighbourhood(queries.of, tokenizer, dist_fn, hparams.key_templates, rate, sentences)
    auto_radii = torch.tensor(
        [
            neighbourhood.radius(key, subject, queries.at_ends(contexts))
            for key, subject, contexts in zip(keys, texts.subjects, texts.contexts, strict=True)
        ]
    )
    common = []
    for permitted in rates_with(rate):
        eps = matching.common_radius(permitted)
        found, fires = matching.shares_at(torch.full_like(auto_radii, eps))
        common.append(RadiusResult(permitted, eps, found, fires))
    found, fires = matching.shares_at(auto_radii)
    auto = RadiusResult(None, float(auto_radii.median()), found, fires)
    mentions = matching.radius_of_mentions(MENTIONS)
    return KeyLayerResult(queries.path, distance, matching.right, tuple(common), auto, mentions)
