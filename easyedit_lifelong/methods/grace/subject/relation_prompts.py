"""The relation metric of a model at its answer layer: fitted once on prompts whose relations are known, and stored.

The prompts are templates that are shipped with this package (``data/samples/relation_prompts.json``), each with the
name of a subject. The file of a metric names the model's weights, the layer and the prompts, so that a metric
of another model is never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from easyedit_lifelong.atomic import atomic_file
from easyedit_lifelong.covariance.moment_paths import model_folders, stats_folder
from easyedit_lifelong.data import samples
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.codebook.relation_metric import (
    DIRECTIONS,
    SHRINKAGE,
    RelationMetric,
    fit_relation_metric,
)
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.named_layers import find_answer_layer
from easyedit_lifelong.methods.shared.editors import base_fingerprint, without_edits
from easyedit_lifelong.models.capture import input_batches
from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.stored_tensors import read_stored_tensors

LOG = logging.getLogger(__name__)


def relation_prompts() -> list[tuple[str, int]]:
    """Return prompts with the numbers of the relations that they ask for.

    The templates of a relation are filled with different subjects, so that subjects vary as the words do.
    """
    content = json.loads(samples.RELATION_PROMPTS.read_text(encoding="utf-8"))
    prompts = []
    for number, relation in enumerate(content["relations"]):
        subjects = content["subjects"][relation["subject"]]
        for position, template in enumerate(relation["templates"]):
            subject = subjects[(number + position) % len(subjects)]
            prompts.append((template.replace("{}", subject), number))
    return prompts


def relation_metric_for(
    model: Any, tokenizer: Any, hparams: GraceHyperParams, progress: Callable[[int, int], None] | None = None
) -> RelationMetric:
    """Return the relation metric of the inputs of the answer layer; see :func:`relation_metrics`.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        hparams: name the answer layer and the folder of the stored metrics.
        progress: called with the number of tokens read so far, and the total.

    Raises:
        ModelError: there is no such layer, it does not get one vector for every token, or its inputs are not finite.
        OSError: the metric can't be stored.
    """
    named = find_answer_layer(model, hparams)
    assert named is not None  # the hyperparameters have been checked
    return relation_metrics(model, tokenizer, dict([named]), hparams.stats_dir, progress)[named[0]]


def relation_metrics(
    model: Any,
    tokenizer: Any,
    layers: Mapping[str, nn.Module],
    stats_dir: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, RelationMetric]:
    """Return the relation metrics of layers' inputs. Those that aren't on disk are fitted in one pass, and stored.

    Args:
        model: the model; its edits are suspended meanwhile.
        tokenizer: its tokenizer.
        layers: the layers by path.
        stats_dir: folder of the stored metrics; None for this package's cache.
        progress: called with the number of tokens read so far, and the total.

    Raises:
        ModelError: a layer does not get one vector for every token, or its inputs are not finite.
        OSError: a metric can't be stored.
    """
    relation_of = {tuple(encode_text(tokenizer, text)): relation for text, relation in relation_prompts()}
    identity = {
        "format": "1",
        "fingerprint": base_fingerprint(model),
        "prompts": hashlib.sha256(repr(list(relation_of.items())).encode()).hexdigest(),
        "settings": f"{DIRECTIONS} directions, shrinkage {SHRINKAGE}",
    }
    folder = stats_folder(stats_dir) / model_folders(model)[0] / "relation_metric"
    stored = {
        path: read_stored_tensors(folder / f"{path}.safetensors", RelationMetric._fields, identity) for path in layers
    }
    metrics = {path: RelationMetric(**tensors) for path, tensors in stored.items() if tensors is not None}
    missing = {path: layer for path, layer in layers.items() if path not in metrics}
    if missing:
        LOG.info("fitting the relation metric of %s on %d prompts", ", ".join(missing), len(relation_of))
        with without_edits(model):
            fitted = _fit(Runner(model, tokenizer), missing, relation_of, progress)
        folder.mkdir(parents=True, exist_ok=True)
        for path, metric in fitted.items():
            with atomic_file(folder / f"{path}.safetensors") as temporary:
                save_file(metric._asdict(), temporary, identity)
        metrics.update(fitted)
    return metrics


def _fit(
    runner: Runner,
    layers: Mapping[str, nn.Module],
    relation_of: Mapping[tuple[int, ...], int],
    progress: Callable[[int, int], None] | None,
) -> dict[str, RelationMetric]:
    """Return the relation metrics of layers' inputs at the last tokens of encoded prompts."""
    activations: dict[str, list[Tensor]] = {path: [] for path in layers}
    relations: list[int] = []
    n_read, n_tokens = 0, sum(map(len, relation_of))
    for rows, recorded in input_batches(runner, layers, [list(row) for row in relation_of]):
        relations += [relation_of[tuple(row)] for row in rows]
        for path, inputs in recorded.items():
            activations[path] += [of_row[len(row) - 1].float().cpu() for row, of_row in zip(rows, inputs, strict=True)]
        n_read += sum(map(len, rows))
        if progress is not None:
            progress(n_read, n_tokens)
    return {path: _fit_layer(path, torch.stack(vectors), relations) for path, vectors in activations.items()}


def _fit_layer(path: str, activations: Tensor, relations: Sequence[int]) -> RelationMetric:
    """Return the relation metric of one layer's inputs.

    Raises:
        ModelError: the activations are infinite or NaN, or do not depend on the prompt.
    """
    if not bool(activations.isfinite().all()):
        raise ModelError(
            f"answer_layer: the inputs of {path} are infinite or NaN. Load the model in float32 or bfloat16."
        )
    try:
        return fit_relation_metric(activations, relations)
    except ValueError as error:
        raise ModelError(f"answer_layer: the inputs of {path} can't tell relations apart: {error}") from error
