"""Where subjects are found: for each layer and distance, how many paraphrases meet their edit's key.

Forward passes only. A record's key is what a layer sees at its subject's last token, in its prompt and in the key
templates; a paraphrase asks with its subject's last token; a locality prompt must not fire at any of its tokens. A
radius for all keys is as wide as a share of locality prompts that may fire allows; ``eps: auto`` has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.calibration.passes import Counting, Inputs
from easyedit_lifelong.calibration.records import subject_of
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.grace.codebook.distance import COS, EUC, by_product, prepared
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.subject.auto_radius import Neighbourhood, Sentences, sample_sentences
from easyedit_lifelong.methods.grace.subject.contexts import key_texts
from easyedit_lifelong.methods.grace.subject.whitening import whitened
from easyedit_lifelong.methods.shared.subject_positions import subject_span, token_of_span

WHITENED = "cos, whitened"
DISTANCES = (EUC, COS, WHITENED)
RATES = (0.005, 0.01, 0.02, 0.05)
"""Shares of locality prompts that may hold a token that fires."""

_INSIDE = 1 - 1e-4
"""A radius ends this much short of the first token that it has to keep out, so that rounding doesn't let it in."""


@dataclass(frozen=True)
class Radius:
    """What a deferral radius lets in.

    Attributes:
        rate: the share of locality prompts that it was allowed; None for ``eps: auto``'s radii.
        eps: the radius, for all keys; the median of theirs for ``eps: auto``.
        found: share of paraphrases whose nearest key is the right one, and holds them.
        fires: share of locality prompts that hold a token that fires.
    """

    rate: float | None
    eps: float
    found: float
    fires: float


@dataclass(frozen=True)
class Finding:
    """What a layer and a distance can do.

    Attributes:
        layer: its path.
        distance: one of :data:`DISTANCES`.
        right: share of paraphrases whose nearest key is the right one, however far.
        common: at a radius for all keys, by what is allowed.
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Return what ``dataclasses.asdict`` made a dictionary of."""
        common = tuple(Radius(**radius) for radius in values["common"])
        return cls(**{**values, "common": common, "auto": Radius(**values["auto"])})


@dataclass
class Asked:
    """The texts of some records, as tokens.

    Attributes:
        keys: rows that end at a subject's last token: a record's views, one after the other.
        again: for each record, rows that end at its subject in its own contexts.
        paraphrases: rows that end at the subject, in paraphrases.
        whose: the record that each paraphrase is of.
        locality: whole prompts that must not fire.
        unnamed: which record's subjects each of these doesn't name, ``(prompts, records)``.
        same: which records are about the same subject, ``(records, records)``.
    """

    subjects: list[str] = field(default_factory=list)
    keys: list[list[int]] = field(default_factory=list)
    again: list[list[list[int]]] = field(default_factory=list)
    paraphrases: list[list[int]] = field(default_factory=list)
    whose: list[int] = field(default_factory=list)
    locality: list[list[int]] = field(default_factory=list)
    unnamed: Tensor = field(default_factory=lambda: torch.empty(0))
    same: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, requests: Sequence[EditRequest], tokenizer: Any, hparams: GraceHyperParams) -> Asked:
        """Encode what usable records ask.

        A paraphrase that doesn't name the subject is left out: nothing can find it.
        """
        asked = cls(subjects=[subject_of(request) for request in requests])
        prompts: dict[str, None] = {}
        for number, request in enumerate(requests):
            span = subject_span(request)
            asked.keys += key_texts(tokenizer, request.prompt, span, hparams.key_templates)
            asked.again.append(key_texts(tokenizer, request.prompt, span, hparams.context_templates))
            for text in request.rephrase_prompts:
                where = find_subject(text, asked.subjects[number])
                if where is not None:
                    end = token_of_span(tokenizer, text, where, "subject_last")
                    asked.paraphrases.append(list(tokenizer(text)["input_ids"])[: end + 1])
                    asked.whose.append(number)
            prompts |= dict.fromkeys(probe.prompt for probes in request.locality.values() for probe in probes)
        asked.locality = [list(tokenizer(text)["input_ids"]) for text in prompts]
        names = [subject.casefold() for subject in asked.subjects]
        asked.unnamed = torch.tensor([[name not in text.casefold() for name in names] for text in prompts])
        asked.same = torch.tensor([[one == other for other in names] for one in names])
        return asked

    @property
    def rows(self) -> list[list[int]]:
        """All that a layer has to be seen on."""
        return [*self.keys, *(row for rows in self.again for row in rows), *self.paraphrases, *self.locality]


def study_finding(
    inputs: Inputs, layers: Sequence[str], asked: Asked, bases: Mapping[str, Tensor], tokenizer: Any,
    hparams: GraceHyperParams, rate: float, progress: Counting | None = None,
) -> list[Finding]:  # fmt: skip
    """Return what each layer and distance can do.

    Args:
        inputs: of the layers.
        layers: their paths.
        asked: the records' texts.
        bases: each layer's whitening.
        tokenizer: the model's.
        hparams: GRACE's hyperparameters, for their templates.
        rate: the false-fire rate of ``eps: auto``; it is one of the common radius's, too.
        progress: hears of the rows read.
    """
    sentences = sample_sentences()
    inputs.read([*asked.rows, *_rows_of(sentences, tokenizer, hparams)], progress)
    return [
        _finding(inputs, path, distance, asked, bases[path] if distance == WHITENED else None, tokenizer, hparams, rate,
                 sentences)
        for path in layers
        for distance in DISTANCES
    ]  # fmt: skip


def rates_with(rate: float) -> list[float]:
    """Return the rates that a table has, with the one asked for among them."""
    return sorted({*RATES, rate})


def dist_fn_of(distance: str) -> str:
    """Return the hyperparameter ``dist_fn`` of a distance."""
    return COS if distance == WHITENED else distance


def _finding(
    inputs: Inputs, path: str, distance: str, asked: Asked, basis: Tensor | None, tokenizer: Any,
    hparams: GraceHyperParams, rate: float, sentences: Sentences,
) -> Finding:  # fmt: skip
    dist_fn = dist_fn_of(distance)

    def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
        return [whitened(seen, basis) for seen in inputs.at(path, rows)]

    def ends_of(rows: Sequence[list[int]]) -> Tensor:
        return torch.stack([part[-1] for part in queries_of(rows)])

    keys = ends_of(asked.keys).view(len(asked.subjects), hparams.views, -1)
    met = _Met(keys, dist_fn, ends_of(asked.paraphrases), queries_of(asked.locality), asked)
    neighbourhood = Neighbourhood(queries_of, tokenizer, dist_fn, hparams.key_templates, rate, sentences)
    own = [
        neighbourhood.radius(views, subject, ends_of(again))
        for views, subject, again in zip(keys, asked.subjects, asked.again, strict=True)
    ]
    common = []
    for allowed in rates_with(rate):
        eps = met.radius_at(allowed)
        common.append(Radius(allowed, eps, *met.at(torch.full((len(keys),), eps))))
    radii = torch.tensor(own)
    auto = Radius(None, float(radii.median()), *met.at(radii))
    return Finding(path, distance, met.right, tuple(common), auto)


class _Met:
    """Distances of paraphrases and locality prompts to all keys.

    Args:
        keys: shape ``(records, views, width)``.
        dist_fn: ``euc`` or ``cos``.
        paraphrases: shape ``(paraphrases, width)``.
        locality: for each locality prompt, its tokens, ``(tokens, width)``.
        asked: whose they are.

    Attributes:
        right: see :class:`Finding`.
    """

    def __init__(
        self, keys: Tensor, dist_fn: str, paraphrases: Tensor, locality: Sequence[Tensor], asked: Asked
    ) -> None:
        count, views, _ = keys.shape
        ready = prepared(keys.flatten(0, 1), dist_fn)

        def distances(queries: Tensor) -> Tensor:
            apart = by_product(prepared(queries, dist_fn), ready, dist_fn)
            return apart.view(len(queries), count, views).amin(dim=2)

        self._met, self._nearest = distances(paraphrases).min(dim=1)
        self._is_right = asked.same[torch.tensor(asked.whose), self._nearest]
        self.right = float(self._is_right.float().mean())
        # A locality prompt may name an edited subject; that its key then answers is no false fire.
        self._tokens = [
            distances(tokens).masked_fill(~unnamed, float("inf")).min(dim=1)
            for tokens, unnamed in zip(locality, asked.unnamed, strict=True)
        ]
        self._fires_at = torch.stack([nearest.values.amin() for nearest in self._tokens])

    def radius_at(self, rate: float) -> float:
        """Return the widest radius for all keys at which no more than a share of the locality prompts fires."""
        nearest = self._fires_at.sort().values
        allowed = int(rate * len(nearest) + 1e-9)
        first_out = nearest[min(allowed, len(nearest) - 1)]
        return float(first_out) * _INSIDE if torch.isfinite(first_out) else float(self._met.max())

    def at(self, radii: Tensor) -> tuple[float, float]:
        """Return the share of paraphrases found, and of locality prompts that fire, at each key's radius."""
        found = self._is_right & (self._met <= radii[self._nearest])
        fires = [bool((nearest.values <= radii[nearest.indices]).any()) for nearest in self._tokens]
        return float(found.float().mean()), sum(fires) / len(fires)


def _rows_of(sentences: Sentences, tokenizer: Any, hparams: GraceHyperParams) -> list[list[int]]:
    """Return what :class:`Neighbourhood` will ask for, so that it is read with the rest."""
    rows = [list(tokenizer(text)["input_ids"]) for text in sentences.texts]
    for subject, prompt in sentences.subjects:
        span = find_subject(prompt, subject)
        if span is not None:
            rows += key_texts(tokenizer, prompt, span, hparams.key_templates)
    return rows
