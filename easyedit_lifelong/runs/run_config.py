"""What a run's ``config.yaml`` says: all that it takes to do the run again, and what tells it from others.

The file is an experiment file (:mod:`easyedit_lifelong.runs.experiment` reads it). Data that came from a
program and not from a file are written beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError, ModelError, RunError
from easyedit_lifelong.hyperparams import hparams_values
from easyedit_lifelong.models import smollm2
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.runs.engine import CONSECUTIVE, Plan
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION

REQUESTS, RETENTION, TEXT = "requests.jsonl", "retention.json", "text.txt"


@dataclass(frozen=True)
class Source:
    """Where a run's data came from, as an experiment file says it.

    Attributes:
        data: the section ``data``.
        retention: the section ``retention``: a file, an empty list for none, or None for the sample data's.
        text: the section ``text``: a file, or None.
    """

    data: Mapping[str, Any]
    retention: str | list[Any] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Material:
    """What a run is about: its requests, its held-out facts, and where they came from.

    Attributes:
        given: the requests given.
        usable: those that can be edited.
        skipped: the others, and why.
        retention: held-out facts.
        default_retention: whether these are the sample data's because nobody gave any.
        name: what to call the data.
        task: what the data ask of the model, as their reader says.
        text: a held-out text whose perplexity is measured.
        source: where the data came from; None if a program made them.
        skip_unusable: whether requests that can't be used may be left out.
    """

    given: Sequence[EditRequest]
    usable: list[EditRequest]
    skipped: list[dict[str, Any]]
    retention: Sequence[Probe]
    default_retention: bool
    name: str
    task: str = "qa"
    text: str | None = None
    source: Source | None = None
    skip_unusable: bool = False


def run_config(plan: Plan, model: Any, material: Material, trackers: Sequence[str]) -> dict[str, Any]:
    """Return what ``config.yaml`` says; the data's section is settled when it is written."""
    loop = (
        {"batch_size": plan.batch_size, "protocol": plan.protocol, "skip_unusable": material.skip_unusable}
        if plan.loop == CONSECUTIVE
        else {"only_errors": plan.only_errors}
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "loop": plan.loop,
        "model": _placed(_name_of(model, plan.hparams)),
        "hparams": hparams_values(plan.hparams),
        "data": dict(material.source.data) if material.source else {"name": material.name},
        "retention": material.source.retention if material.source else None,
        "text": material.source.text if material.source else None,
        "task": material.task,
        **loop,
        "schedule": plan.schedule.to_dict(),
        "trackers": list(trackers),
        "recorded": {
            "method": plan.method.name, "n_requests": len(material.given), "weights": _weights(model),
            "requests_sha256": requests_digest(material.usable, material.retention, material.text),
        },
    }  # fmt: skip


def summary_facts(plan: Plan, model: Any, material: Material, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``summary.json`` says of what the run was asked to do."""
    loop = (
        {"protocol": plan.protocol, "batch_size": plan.batch_size}
        if plan.loop == CONSECUTIVE
        else {"only_errors": plan.only_errors}
    )
    return {
        "loop": plan.loop, "method": plan.method.name, "model": model_label(model), "data": material.name,
        "n_requests": len(material.given), **loop, "eval_every": plan.schedule.every,
        "schedule": plan.schedule.to_dict(), "weights": config["recorded"]["weights"],
        "requests_sha256": config["recorded"]["requests_sha256"], "hparams": config["hparams"],
    }  # fmt: skip


def with_data(folder: Path, config: dict[str, Any], material: Material) -> dict[str, Any]:
    """Write data that came from a program into a run's folder, and return the config that names them.

    Raises:
        RunError: they can't be written.
    """
    config = {**config, "recorded": {**config["recorded"], "started": now()}}
    if material.source is not None:
        return config
    records = [_record(request) for request in material.given]
    if [_read_back(record) for record in records] != list(material.given):
        return config  # nothing that a file can hold says the same; the run can't be done again from its folder
    files = {REQUESTS: "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)}
    if material.text is not None:
        config["text"], files[TEXT] = TEXT, material.text
    config["data"] = {**config["data"], "path": REQUESTS, "format": "json"}
    if not material.default_retention:
        facts = [{"prompt": probe.prompt, "answer": probe.answer} for probe in material.retention]
        config["retention"] = RETENTION if facts else []
        files |= {RETENTION: json.dumps(facts, indent=1, ensure_ascii=False) + "\n"} if facts else {}
    for name, text in files.items():
        try:
            replace_text(folder / name, text, newline="")  # line ends are part of a held-out text
        except OSError as error:
            raise RunError(f"{folder / name}: can't be written: {error.strerror}") from error
    return config


def requests_digest(requests: Sequence[EditRequest], retention: Sequence[Probe], text: str | None = None) -> str:
    """Return what tells these requests, held-out facts and held-out text from any others."""
    told = [_told(request) for request in requests]
    facts = [(probe.prompt, probe.answer) for probe in retention]
    return hashlib.sha256(json.dumps([told, facts, text], ensure_ascii=False).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return a file's SHA-256.

    Raises:
        DataError: it can't be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error


_FIELDS = [item.name for item in dataclasses.fields(EditRequest) if item.compare]


def _told(request: EditRequest) -> list[Any]:
    """Return all that a request says; of relation specificity only where there is any.

    Runs over data without it are older than that field, and have to be known again.
    """
    said = {name: getattr(request, name) for name in _FIELDS}
    return [_plain(value) for name, value in said.items() if value or name != RELATION_SPECIFICITY]


def _plain(value: Any) -> Any:
    """Return a request's field as JSON can hold it."""
    if isinstance(value, Mapping):
        return [[name, _plain(inner)] for name, inner in value.items()]
    if isinstance(value, Probe):
        return [value.prompt, value.answer]
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _record(request: EditRequest) -> dict[str, Any]:
    """Return a request in EasyEdit's request fields."""
    locality = dict(request.locality)
    if request.relation_specificity:
        locality[RELATION_SPECIFICITY] = request.relation_specificity
    record: dict[str, Any] = {"case_id": request.case_id, "prompt": request.prompt, "target_new": request.target_new}
    for name, value in (
        ("subject", request.subject),
        ("ground_truth", request.ground_truth),
        ("rephrase_prompt", list(request.rephrase_prompts)),
        ("locality", _sets(locality)),
        ("portability", _sets(request.portability)),
    ):
        if value:
            record[name] = value
    return record


def _sets(sets: Mapping[str, Sequence[Probe]]) -> dict[str, Any]:
    return {
        name: {"prompt": [probe.prompt for probe in probes], "ground_truth": [probe.answer for probe in probes]}
        for name, probes in sets.items()
    }


def _read_back(record: dict[str, Any]) -> EditRequest | None:
    try:
        return EditRequest.from_dict(record, "request")
    except DataError:
        return None


def _weights(model: Any) -> str | None:
    """Return the fingerprint of the model's weights; there is none of weights that aren't in memory."""
    try:
        return model_fingerprint(model)[:16]
    except ModelError:
        return None


def _name_of(model: Any, hparams: Any) -> str:
    """Return what loads the model: where it came from; if it doesn't say, what the hyperparameters name."""
    label, named = model_label(model), getattr(hparams, "model_name", None)
    return named if label == type(model).__name__ and isinstance(named, str) and named else label


def _placed(name: str) -> str:
    """Return a model's name, a folder's or file's in full: the experiment file lies elsewhere."""
    place = Path(name)
    local = place.is_dir() or (place.suffix == ".gguf" and place.is_file())
    return str(place.resolve()) if local and name != smollm2.NAME else name
