"""Where subjects are found: for each layer and distance, how many paraphrases their edit's key finds.

Forward passes only. A record's key is a layer's input at the last token of its subject, in its prompt and in the key
templates. A paraphrase's query is taken at its subject's last token. No token of a locality prompt may fire. A radius
for all keys is as wide as the permitted share of firing locality prompts allows; ``eps: auto`` gives each key its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.usable_records import subject_of
from easyedit_lifelong.methods.grace.codebook.distance import COS, EUC, by_product, prepared
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.auto_radius import Neighbourhood, Sentences, sample_sentences
from easyedit_lifelong.methods.grace.subject.contexts import key_texts
from easyedit_lifelong.methods.grace.subject.whitening import whitened
from easyedit_lifelong.methods.shared.subject_positions import subject_span

WHITENED = "cos, whitened"
DISTANCES = (EUC, COS, WHITENED)
RATES = (0.005, 0.01, 0.02, 0.05)
"""Shares of locality prompts that may hold a token that fires."""

_INSIDE = 1 - 1e-4
"""A radius ends this much short of the first token that it has to keep out, so that rounding does not let it in."""


@dataclass(frozen=True)
class Radius:
    """What a deferral radius lets in.

    Attributes:
        rate: the share of locality prompts that may fire; None for ``eps: auto``.
        eps: the radius, for all keys; with ``eps: auto`` the median of the keys' radii.
        found: share of paraphrases whose nearest key is the right one, and that lie within its radius.
        fires: share of locality prompts that hold a token that fires.
    """

    rate: float | None
    eps: float
    found: float
    fires: float


@dataclass(frozen=True)
class Finding:
    """How well subjects are found at a layer, by a distance.

    Attributes:
        layer: its path.
        distance: one of :data:`DISTANCES`.
        right: share of paraphrases whose nearest key is the right one, at any distance.
        common: at radii for all keys, one for each rate.
        auto: at ``eps: auto``'s radii.
    """

    layer: str
    distance: str
    right: float
    common: tuple[Radius, ...]
    auto: Radius

    def at(self, rate: float) -> Radius:
        """Return the common radius of a false-fire rate."""
        return next(radius for radius in self.common if radius.rate == rate)


@dataclass
class StudyTexts:
    """The texts of some records, as tokens.

    Attributes:
        subjects: of each record.
        keys: rows that end at a subject's last token: all views of the first record's key, then of the second's.
        contexts: for each record, rows that end at its subject in its own contexts.
        paraphrases: rows that end at the subject, in paraphrases.
        owners: the record of each paraphrase, by number.
        locality: whole prompts that must not fire.
        unnamed: which record's subjects each of these does not name, ``(prompts, records)``.
        same: which records are about the same subject, ``(records, records)``.
    """

    subjects: list[str]
    keys: list[list[int]]
    contexts: list[list[list[int]]]
    paraphrases: list[list[int]]
    owners: list[int]
    locality: list[list[int]]
    unnamed: Tensor
    same: Tensor

    @classmethod
    def of(cls, requests: Sequence[EditRequest], tokenizer: Any, hparams: GraceHyperParams) -> StudyTexts:
        """Encode the texts of usable records.

        A paraphrase that does not name the subject is left out: nothing can find it.
        """
        subjects = [subject_of(request) for request in requests]
        names = [subject.casefold() for subject in subjects]
        prompts = [(request.prompt, subject_span(request)) for request in requests]
        paraphrases = [
            (number, key_texts(tokenizer, text, span, []))
            for number, request in enumerate(requests)
            for text in request.rephrase_prompts
            if (span := find_subject(text, subjects[number])) is not None
        ]
        locality = dict.fromkeys(p.prompt for request in requests for ps in request.locality.values() for p in ps)
        return cls(
            subjects=subjects,
            keys=[row for prompt in prompts for row in key_texts(tokenizer, *prompt, hparams.key_templates)],
            contexts=[key_texts(tokenizer, *prompt, hparams.context_templates) for prompt in prompts],
            paraphrases=[row for _, rows in paraphrases for row in rows],
            owners=[number for number, _ in paraphrases],
            locality=[list(tokenizer(text)["input_ids"]) for text in locality],
            unnamed=torch.tensor([[name not in text.casefold() for name in names] for text in locality]),
            same=torch.tensor([[one == other for other in names] for one in names]),
        )


def study_finding(
    inputs: LayerInputs,
    layers: Sequence[str],
    texts: StudyTexts,
    bases: Mapping[str, Tensor],
    tokenizer: Any,
    hparams: GraceHyperParams,
    rate: float,
    progress: Progress = no_progress,
) -> list[Finding]:
    """Return how well subjects are found at each layer, by each distance.

    Args:
        inputs: of the layers.
        layers: their paths.
        texts: the records' texts.
        bases: each layer's whitening.
        tokenizer: the model's.
        hparams: GRACE's hyperparameters, for their templates.
        rate: the false-fire rate of ``eps: auto``; one of the common radii has it, too.
        progress: called as rows are read.
    """
    sentences = sample_sentences()
    # All that the layers will be asked for, the neighbourhoods' sentences included, so that it is read in one go.
    rows = [*texts.keys, *(row for rows in texts.contexts for row in rows), *texts.paraphrases, *texts.locality]
    rows += [list(tokenizer(text)["input_ids"]) for text in sentences.texts]
    for subject, prompt in sentences.subjects:
        if (span := find_subject(prompt, subject)) is not None:
            rows += key_texts(tokenizer, prompt, span, hparams.key_templates)
    inputs.read(rows, progress)
    return [
        _finding(
            inputs,
            path,
            distance,
            texts,
            bases[path] if distance == WHITENED else None,
            tokenizer,
            hparams,
            rate,
            sentences,
        )
        for path in layers
        for distance in DISTANCES
    ]


def rates_with(rate: float) -> list[float]:
    """Return the rates of the common radii: the default ones and the given one."""
    return sorted({*RATES, rate})


def dist_fn_of(distance: str) -> str:
    """Return the hyperparameter ``dist_fn`` of a distance."""
    return COS if distance == WHITENED else distance


def _finding(
    inputs: LayerInputs,
    path: str,
    distance: str,
    texts: StudyTexts,
    basis: Tensor | None,
    tokenizer: Any,
    hparams: GraceHyperParams,
    rate: float,
    sentences: Sentences,
) -> Finding:
    dist_fn = dist_fn_of(distance)

    def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
        return [whitened(seen, basis) for seen in inputs.at(path, rows)]

    def ends_of(rows: Sequence[list[int]]) -> Tensor:
        return torch.stack([part[-1] for part in queries_of(rows)])

    keys = ends_of(texts.keys).view(len(texts.subjects), hparams.views, -1)
    distances = _Distances(keys, dist_fn, ends_of(texts.paraphrases), queries_of(texts.locality), texts)
    neighbourhood = Neighbourhood(queries_of, tokenizer, dist_fn, hparams.key_templates, rate, sentences)
    radii = torch.tensor(
        [
            neighbourhood.radius(views, subject, ends_of(contexts))
            for views, subject, contexts in zip(keys, texts.subjects, texts.contexts, strict=True)
        ]
    )
    common = [(allowed, distances.radius_at(allowed)) for allowed in rates_with(rate)]
    return Finding(
        path,
        distance,
        distances.right,
        tuple(Radius(allowed, eps, *distances.at(torch.full_like(radii, eps))) for allowed, eps in common),
        Radius(None, float(radii.median()), *distances.at(radii)),
    )


class _Distances:
    """Distances of paraphrases and locality prompts to all keys.

    Args:
        keys: shape ``(records, views, width)``.
        dist_fn: ``euc`` or ``cos``.
        paraphrases: shape ``(paraphrases, width)``.
        locality: for each locality prompt, its tokens, ``(tokens, width)``.
        texts: the texts that these are inputs for.

    Attributes:
        right: see :class:`Finding`.
    """

    def __init__(
        self, keys: Tensor, dist_fn: str, paraphrases: Tensor, locality: Sequence[Tensor], texts: StudyTexts
    ) -> None:
        ready = prepared(keys.flatten(0, 1), dist_fn)

        def distances(queries: Tensor) -> Tensor:
            to_views = by_product(prepared(queries, dist_fn), ready, dist_fn)
            return to_views.view(len(queries), *keys.shape[:2]).amin(dim=2)

        self._to_nearest, self._nearest = distances(paraphrases).min(dim=1)
        self._is_right = texts.same[torch.tensor(texts.owners), self._nearest]
        self.right = float(self._is_right.float().mean())
        # A locality prompt may name an edited subject; when that subject's key answers, this is no false fire.
        self._tokens = [
            distances(tokens).masked_fill(~unnamed, float("inf")).min(dim=1)
            for tokens, unnamed in zip(locality, texts.unnamed, strict=True)
        ]

    def radius_at(self, rate: float) -> float:
        """Return the widest radius for all keys at which no more than a share of the locality prompts fires."""
        fires_at = torch.stack([nearest.values.amin() for nearest in self._tokens]).sort().values
        allowed = int(rate * len(fires_at) + 1e-9)
        first_out = fires_at[min(allowed, len(fires_at) - 1)]
        return float(first_out) * _INSIDE if torch.isfinite(first_out) else float(self._to_nearest.max())

    def at(self, radii: Tensor) -> tuple[float, float]:
        """Return the share of paraphrases found, and of locality prompts that fire, at each key's radius."""
        found = self._is_right & (self._to_nearest <= radii[self._nearest])
        fires = [bool((nearest.values <= radii[nearest.indices]).any()) for nearest in self._tokens]
        return float(found.float().mean()), sum(fires) / len(fires)
