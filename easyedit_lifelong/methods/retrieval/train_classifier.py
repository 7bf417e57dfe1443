"""Train a scope classifier on pairs of prompts (SERAC, arXiv 2206.06520, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams
from easyedit_lifelong.methods.retrieval.embedding import Embedder, Standardisation, embedder_for
from easyedit_lifelong.methods.retrieval.scope_classifier import (
    ClassifierTraining,
    ScopeClassifier,
    check_new,
    save_classifier,
)
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.plurals import counted

_FIRST_SCALE, _FIRST_THRESHOLD = 10.0, 0.5
_HELD_OUT = 0.1
"""The share of records that are not trained on, for the scores."""


def train_scope_classifier(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    hparams: RetrievalHyperParams,
    out: str | Path,
    *,
    rank: int = 256,
    steps: int = 300,
    batch_size: int = 64,
    lr: float = 1e-3,
) -> ClassifierTraining:
    """Train a scope classifier, and write it to a folder.

    A pair of an edit's prompt and its paraphrase is in scope. Pairs with its locality prompt, and with the prompts of
    other records, are not. In each step, each prompt of a batch is compared with the edits of the batch; the loss is
    the mean binary cross-entropy of the pairs in scope, plus that of the nearest pair out of scope of each prompt:

        p(x in the scope of j) = sigmoid(s · (cos(W x, W x_j) - t))

    W begins with the principal components of the embeddings. The last tenth of the records is not trained on.

    Args:
        model: the base model.
        tokenizer: its tokenizer.
        requests: records with paraphrases and locality prompts: requests in EasyEdit's fields or
            :class:`~easyedit_lifelong.data.request.EditRequest` objects. Neither edit nor score them.
        hparams: ``embedding_layer``, ``sentence_encoder`` and ``seed`` are used.
        out: the folder, which must be empty or not exist.
        rank: number of rows of W, at most.
        steps: number of optimiser steps of Adam.
        batch_size: number of records in a step.
        lr: learning rate.

    Returns:
        How the classifier was trained, and its scores on the held-out records.

    Raises:
        DataError: a record cannot be used, or there are fewer than ten with a paraphrase.
        EditError: the loss is not finite.
        RunError: the folder is not empty, or cannot be written.
    """
    folder = check_new(out)
    records = [request for request in as_requests(requests) if request.rephrase_prompts]
    if len(records) < 10:
        raise DataError(f"a scope classifier needs at least 10 records with a rephrase_prompt, not {len(records)}")
    embedder = embedder_for(model, tokenizer, hparams)
    standardisation = Standardisation.measured(embedder, tokenizer)
    data = _Embedded(records, embedder, tokenizer, standardisation)
    n_training = len(records) - max(1, math.ceil(_HELD_OUT * len(records)))
    training = data.part(range(n_training))
    with torch.inference_mode(False), torch.enable_grad():
        projection, threshold, loss = _fit(training, rank, steps, batch_size, lr, hparams.seed)
    classifier = ScopeClassifier(standardisation, projection, threshold)
    held_out = data.part(range(n_training, len(records)))
    in_scope, out_of_scope = _scores(held_out, projection, threshold)
    summary = ClassifierTraining(n_training, steps, loss, len(records) - n_training, in_scope, out_of_scope)
    save_classifier(folder, classifier, model, hparams, summary)
    return summary


class _Embedded:
    """The standardised embeddings of records.

    Attributes:
        prompts: of the records' prompts, shape ``(records, width)``.
        paraphrases: of one paraphrase of each record, same shape.
        others: of locality prompts, shape ``(locality prompts, width)``.
        other_records: the record of each locality prompt.
    """

    def __init__(
        self, records: Sequence[EditRequest], embedder: Embedder, tokenizer: Any, standardisation: Standardisation
    ) -> None:
        def embedded(texts: Sequence[str]) -> Tensor:
            rows = [encode_text(tokenizer, text) for text in texts]
            return standardisation.unit(embedder.embed(rows)).cpu() if rows else torch.empty(0, width)

        self.prompts = embedded([record.prompt for record in records])
        width = self.prompts.shape[1]
        self.paraphrases = embedded([record.rephrase_prompts[0] for record in records])
        probes = [
            (n, probe.prompt) for n, record in enumerate(records) for set_ in record.locality.values() for probe in set_
        ]
        self.others = embedded([prompt for _, prompt in probes])
        self.other_records = torch.tensor([n for n, _ in probes], dtype=torch.long)

    def part(self, records: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings of some records: prompts, paraphrases and locality prompts."""
        numbers = torch.as_tensor(list(records))
        return self.prompts[numbers], self.paraphrases[numbers], self.others[torch.isin(self.other_records, numbers)]


def _fit(
    data: tuple[Tensor, Tensor, Tensor], rank: int, steps: int, batch_size: int, lr: float, seed: int
) -> tuple[Tensor, float, float]:
    """Return W, the threshold, and the loss of the last step.

    Raises:
        EditError: the loss is not finite.
    """
    prompts, paraphrases, others = data
    _, _, components = torch.linalg.svd(torch.cat(data).double(), full_matrices=False)
    projection = components[:rank].float().clone().requires_grad_()
    scale = torch.tensor(_FIRST_SCALE, requires_grad=True)
    threshold = torch.tensor(_FIRST_THRESHOLD, requires_grad=True)
    optimiser = torch.optim.Adam([projection, scale, threshold], lr=lr)
    generator = torch.Generator().manual_seed(seed)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        batch = torch.randperm(len(prompts), generator=generator)[:batch_size]
        probes = others[torch.randperm(len(others), generator=generator)[:batch_size]]
        queries = torch.cat([prompts[batch], paraphrases[batch], probes])
        logits = scale * (_cosines(projection, queries, prompts[batch]) - threshold)
        own = torch.eye(len(batch), dtype=torch.bool).repeat(2, 1)
        own = torch.cat([own, torch.zeros(len(probes), len(batch), dtype=torch.bool)])
        nearest_other = logits.masked_fill(own, -math.inf).amax(dim=1)
        loss = F.softplus(-logits[own]).mean() + F.softplus(nearest_other).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    if not loss.isfinite():
        raise EditError(
            f"the loss of the scope classifier is not finite after {counted(steps, 'step')}; use a smaller lr"
        )
    return projection.detach(), threshold.item(), loss.item()


def _scores(data: tuple[Tensor, Tensor, Tensor], projection: Tensor, threshold: float) -> tuple[float, float]:
    """Return the shares of :class:`ClassifierTraining`, ``in_scope`` and ``out_of_scope``."""
    prompts, paraphrases, others = data
    of_paraphrases = _cosines(projection, paraphrases, prompts)
    nearest = of_paraphrases.max(dim=1)
    found = (nearest.indices == torch.arange(len(prompts))) & (nearest.values > threshold)
    ignored = _cosines(projection, others, prompts).amax(dim=1) <= threshold
    return float(found.float().mean()), float(ignored.float().mean()) if len(others) else math.nan


def _cosines(projection: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Return cos(W x, W x_j) of each query with each key, shape ``(queries, keys)``."""
    return F.normalize(queries @ projection.t(), dim=1) @ F.normalize(keys @ projection.t(), dim=1).t()
