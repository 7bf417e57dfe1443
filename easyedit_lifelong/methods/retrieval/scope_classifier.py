"""A trained scope classifier: a projection of embeddings, and a threshold on the cosine of projected embeddings.

The classifier is a folder: ``classifier.safetensors`` and ``classifier.json``, which has the fingerprint of the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.atomic import atomic_folder
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.retrieval.config import RetrievalHyperParams
from easyedit_lifelong.methods.retrieval.embedding import Standardisation
from easyedit_lifelong.methods.shared.editors import base_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.paths import expanded_path

TENSORS, INDEX = "classifier.safetensors", "classifier.json"
FORMAT_VERSION = 1
_NAMES = ("mean", "spread", "projection")


@dataclass(frozen=True)
class ScopeClassifier:
    """A prompt is in the scope of an edit if cos(W x, W x_j) is above the threshold, with standardised embeddings x.

    Attributes:
        standardisation: μ and s of the embeddings.
        projection: W, shape ``(rank, width)``, float32.
        threshold: the threshold.
    """

    standardisation: Standardisation
    projection: Tensor
    threshold: float

    def unit(self, embeddings: Tensor) -> Tensor:
        """Return W x for each embedding, scaled to unit length, shape ``(embeddings, rank)``."""
        standardised = self.standardisation.unit(embeddings)  # the length of x does not change the direction of W x
        return F.normalize(standardised @ self.projection.to(embeddings.device).t(), dim=1)

    def digest(self) -> str:
        """Return a hash of the classifier, by which edits name the one that they were made with."""
        digest = hashlib.sha256(repr(self.threshold).encode())
        for tensor in (self.standardisation.mean, self.standardisation.spread, self.projection):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier was trained, and its scores on records that it was not trained on.

    Attributes:
        records: number of records for training.
        steps: number of optimiser steps.
        loss: the loss of the last step.
        held_out: number of records for the scores.
        in_scope: share of the paraphrases of these records that are in scope and whose nearest edit is the right one.
        out_of_scope: share of the locality prompts of these records that are in the scope of no edit.
    """

    records: int
    steps: int
    loss: float
    held_out: int
    in_scope: float
    out_of_scope: float


def check_new(folder: str | Path) -> Path:
    """Check that a classifier can be written to a folder without overwriting files; return the folder.

    Raises:
        RunError: the path exists and is not an empty folder.
    """
    folder = expanded_path(folder, RunError)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder}: exists and is not an empty folder; nothing will be overwritten. Name a new folder.")
    return folder


def save_classifier(
    folder: Path,
    classifier: ScopeClassifier,
    model: Any,
    hparams: RetrievalHyperParams,
    training: ClassifierTraining,
) -> None:
    """Write a classifier to a folder, which must be empty or not exist.

    Raises:
        RunError: the folder cannot be written.
    """
    index = {
        "format_version": FORMAT_VERSION,
        "model": {"name": model_label(model), "fingerprint": base_fingerprint(model)},
        "settings": {name: getattr(hparams, name) for name in RetrievalHyperParams.SAME_SETTINGS},
        "threshold": classifier.threshold,
        "training": asdict(training),
    }
    tensors = (classifier.standardisation.mean, classifier.standardisation.spread, classifier.projection)
    by_name = {name: tensor.cpu().contiguous() for name, tensor in zip(_NAMES, tensors, strict=True)}
    try:
        with atomic_folder(folder) as temporary:
            save_file(by_name, temporary / TENSORS)
            (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{folder}: the scope classifier can't be written: {reason}") from error


def load_classifier(folder: str | Path, model: Any, hparams: RetrievalHyperParams) -> ScopeClassifier:
    """Read the classifier of a folder.

    Raises:
        RunError: the folder does not exist or is damaged, or the classifier was trained on another model or with other
            embeddings.
    """
    path = expanded_path(folder, RunError) / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(path.with_name(TENSORS))
        version, settings = index["format_version"], dict(index["settings"])
        trained_on, fingerprint = index["model"]["name"], index["model"]["fingerprint"]
        threshold = float(index["threshold"])
        mean, spread, projection = (tensors[name].float() for name in _NAMES)
        if not mean.shape == spread.shape == projection.shape[1:]:
            raise ValueError(f"the shapes of {', '.join(_NAMES)} do not match")
        if not (
            math.isfinite(threshold) and all(bool(tensor.isfinite().all()) for tensor in (mean, spread, projection))
        ):
            raise ValueError("it has values that are not finite")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"{path}: this is no scope classifier, or it is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise RunError(f"{path}: format version {version} is unknown; this version reads {FORMAT_VERSION}")
    if fingerprint != base_fingerprint(model):
        raise RunError(f"{path}: trained on {trained_on!r}, whose weights aren't those of this model")
    for name, value in settings.items():
        if value != getattr(hparams, name, None):
            raise RunError(f"{path}: trained with {name}={value!r}, not {getattr(hparams, name, None)!r}")
    return ScopeClassifier(Standardisation(mean, spread), projection, threshold)
