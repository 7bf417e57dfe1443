"""A measured sweep: edit facts at one layer after another, and score each edit (reliability, generality, locality).

Each edit is made on the unedited model, scored by teacher forcing, and rolled back.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.evaluation.questions import Question, Questions
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.evaluation.scorers import requests_and_scorer
from easyedit_lifelong.evaluation.teacher_forced import ForcedAnswer
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.shared.layer_moves import at_layer
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.parsing import parse_json
from easyedit_lifelong.write_errors import translated_write_errors

SCORES = ("reliability", "generality", "locality")


@dataclass(frozen=True)
class SweptLayer:
    """The scores of edits at one layer.

    Attributes:
        layer: the layer.
        scores: the mean of each score over the edits; a failed edit counts as the unedited model does.
        n_edits: number of edits.
        n_failed: number of edits that failed.
    """

    layer: int
    scores: Mapping[str, float]
    n_edits: int
    n_failed: int

    @property
    def combined(self) -> float:
        """The harmonic mean of the scores, as ROME's score S; 0 if one is 0."""
        return statistics.harmonic_mean(tuple(self.scores.values())) if self.scores else 0.0


def sweep_layers(
    method: EditMethod,
    model: Any,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: Any,
    layers: Sequence[int],
    out: Path,
    *,
    report: Callable[[SweptLayer], None] | None = None,
) -> list[SweptLayer]:
    """Edit each request at each layer on the unedited model, and score and roll back each edit.

    Results are written after each edit. A sweep that was interrupted continues with the first edit without results.

    Args:
        method: the editing method; it must return a rollback.
        model: the model.
        tokenizer: its tokenizer.
        requests: the requests; none of them should be scored elsewhere.
        hparams: the method's hyperparameters; each layer gets a copy (:func:`at_layer`).
        layers: the layers.
        out: the folder of the results, ``METHOD.json``.
        report: called after each layer.

    Raises:
        EditError: the method returns no rollback.
        HyperParameterError: the method has no layers to replace, or can't edit one of them.
        RunError: the folder holds a sweep with other settings, or can't be written to.
    """
    requests, scorer = requests_and_scorer(model, tokenizer, requests, hparams)
    path = out / f"{method.name.replace('/', '-')}.json"
    settings = {
        "model": model_label(model),
        "weights": model_fingerprint(model),
        "hparams": hparams_values(hparams, model_label(model)),
        "requests": [[str(request.case_id), request.prompt, request.target_new] for request in requests],
    }
    with locked_folder(out, work="sweeping layers in this folder"):
        done = _read(path, json.loads(json.dumps(settings)))
        questions = [question for request in requests for question in Questions.about([request]).all()]
        unedited = dict(zip(questions, scorer.forced(model, questions), strict=True))
        swept = []
        for layer in layers:
            entries = done.setdefault(layer, [])
            if len(entries) < len(requests):
                copy = at_layer(hparams, model, layer)
                if method.check is not None:
                    method.check(model, tokenizer, copy)
                if method.prepare is not None:
                    method.prepare(model, tokenizer, copy, None)
            for request in requests[len(entries) :]:
                entries.append(_edit(method, model, tokenizer, request, copy, scorer, unedited))
                by_layer = {str(number): done[number] for number in sorted(done)}
                _write(path, {"settings": settings, "layers": by_layer})
            swept.append(_swept(layer, entries))
            if report is not None:
                report(swept[-1])
    return swept


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation of two series; None if one is constant or shorter than three."""
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _edit(
    method: EditMethod,
    model: Any,
    tokenizer: Any,
    request: EditRequest,
    hparams: Any,
    scorer: Scorer,
    unedited: Mapping[Question, ForcedAnswer],
) -> dict[str, Any]:
    """Edit, score and roll back a request; return its entry in the results."""
    questions = Questions.about([request])
    began, error, answers = time.monotonic(), None, dict(unedited)
    try:
        _, rollback = method.apply(model, tokenizer, [request], hparams)
    except EditError as problem:
        error = str(problem)
    else:
        if not callable(rollback):
            raise EditError(f"{method.name} returns no rollback, so its layers can't be swept")
        try:
            asked = questions.all()
            answers = dict(zip(asked, scorer.forced(model, asked), strict=True))
        finally:
            rollback()
    scores = {
        "reliability": [answers[question].accuracy for question in questions.edit],
        "generality": [answers[question].accuracy for question in questions.rephrase],
        "locality": [answers[question].agreement(unedited[question]) for question in questions.locality],
    }
    entry = {"case_id": request.case_id, **scores, "seconds": round(time.monotonic() - began, 3)}
    return entry if error is None else {**entry, "error": error}


def _swept(layer: int, entries: Sequence[Mapping[str, Any]]) -> SweptLayer:
    """Return the means of a layer's entries."""
    means = {}
    for name in SCORES:
        values = [value for entry in entries for value in entry[name]]
        if values:
            means[name] = float(np.mean(values))
    return SweptLayer(layer, means, len(entries), sum("error" in entry for entry in entries))


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value; equal values share the mean of their ranks."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def _read(path: Path, settings: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Return the entries of each layer that an earlier sweep with the same settings has written.

    Raises:
        RunError: the file is damaged, or of a sweep with other settings.
    """
    if not path.exists():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        recorded, layers = content["settings"], content["layers"]
        done = {int(number): entries for number, entries in layers.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: is damaged. Delete it to sweep again.") from error
    changed = [name for name in settings if recorded.get(name) != settings[name]]
    if changed:
        raise RunError(
            f"{path}: is of a sweep with another {', '.join(changed)}. Delete it, or sweep in another folder."
        )
    return done


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with translated_write_errors(path):
        write_text_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
