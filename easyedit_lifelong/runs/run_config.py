"""The content of a run's ``config.yaml``: all settings that repeat the run and distinguish it from others.

The file is an experiment file (:mod:`easyedit_lifelong.runs.experiment_files` reads it). Data that came from a
program and not from a file are written beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import replace_text
from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError, ModelError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.models import smollm2
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.runs.checks import Material
from easyedit_lifelong.runs.experiment import Source
from easyedit_lifelong.runs.plan import Plan
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION

REQUESTS, RETENTION, TEXT = "requests.jsonl", "retention.json", "text.txt"


def run_config(plan: Plan, model: Any, material: Material) -> dict[str, Any]:
    """Return the content of ``config.yaml``; :func:`with_data` completes it."""
    experiment, inputs = plan.experiment, material.inputs
    source = inputs.source or Source({"name": inputs.name})
    loop: dict[str, Any] = {"only_errors": experiment.only_errors}
    if plan.batched:
        loop = {
            "batch_size": plan.batch_size,
            "protocol": experiment.protocol,
            "skip_unusable": experiment.skip_unusable,
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "loop": experiment.loop,
        "model": _placed(_name_of(model, plan.hparams)),
        "hparams": hparams_values(plan.hparams),
        "data": dict(source.data),
        "retention": source.retention,
        "text": source.text,
        "task": material.task,
        **loop,
        "schedule": plan.schedule.to_dict(),
        "trackers": list(experiment.trackers),
        "recorded": {
            "method": plan.method.name,
            "n_requests": len(inputs.requests),
            "weights": _weights(model),
            "requests_sha256": requests_digest(material.usable, material.retention, inputs.text),
        },
    }


def summary_facts(plan: Plan, model: Any, material: Material, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the run that ``summary.json`` repeats."""
    return {
        "loop": config["loop"],
        "method": plan.method.name,
        "model": model_label(model),
        "data": material.inputs.name,
        "n_requests": len(material.inputs.requests),
        **{name: config[name] for name in ("protocol", "batch_size", "only_errors") if name in config},
        "eval_every": plan.schedule.every,
        "schedule": config["schedule"],
        "weights": config["recorded"]["weights"],
        "requests_sha256": config["recorded"]["requests_sha256"],
        "hparams": config["hparams"],
    }


def with_data(folder: Path, config: dict[str, Any], material: Material) -> dict[str, Any]:
    """Write data that came from a program into a run's folder, and return the config that names them.

    Raises:
        RunError: they can't be written.
    """
    inputs = material.inputs
    config = {**config, "recorded": {**config["recorded"], "started": now()}}
    if inputs.source is not None:
        return config
    records = [_record(request) for request in inputs.requests]
    if [_read_back(record) for record in records] != inputs.requests:
        return config  # no file can hold these requests unchanged; the run cannot be repeated from its folder
    files = {REQUESTS: "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)}
    if inputs.text is not None:
        config["text"], files[TEXT] = TEXT, inputs.text
    config["data"] = {**config["data"], "path": REQUESTS, "format": "json"}
    if inputs.retention is not None:
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
    """Return a digest of requests, held-out facts and held-out text."""
    fields = [_fields_of(request) for request in requests]
    facts = [(probe.prompt, probe.answer) for probe in retention]
    return hashlib.sha256(json.dumps([fields, facts, text], ensure_ascii=False).encode()).hexdigest()[:16]


_FIELDS = [item.name for item in dataclasses.fields(EditRequest) if item.compare]


def _fields_of(request: EditRequest) -> list[Any]:
    """Return a request's fields; relation specificity only where there is any.

    Runs over data without it may be older than that field, and their digest must stay the same.
    """
    values = {name: getattr(request, name) for name in _FIELDS}
    return [_plain(value) for name, value in values.items() if value or name != RELATION_SPECIFICITY]


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
