"""The content of a run's ``config.yaml``: all settings that are needed to repeat the run.

The file is an experiment file (:mod:`easyedit_lifelong.runs.experiment_files` reads it). Data that a program passed in
memory are written to files beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe
from easyedit_lifelong.errors import DataError, ModelError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.packaged_models import PACKAGED_MODELS
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.runs.checks import CheckedData
from easyedit_lifelong.runs.experiment import Experiment, Source
from easyedit_lifelong.runs.plan import Plan
from easyedit_lifelong.runs.requests_digest import requests_digest
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION
from easyedit_lifelong.write_errors import translated_write_errors

REQUESTS, RETENTION, TEXT, CAPABILITY = "requests.jsonl", "retention.json", "text.txt", "capability.json"


def run_config(plan: Plan, model: Any, checked: CheckedData) -> dict[str, Any]:
    """Return the content of ``config.yaml``, without the names of data files that :func:`write_data` adds.

    Args:
        plan: the plan of the run.
        model: the unedited model.
        checked: the data, checked against the model.
    """
    experiment, inputs = plan.experiment, checked.inputs
    source = inputs.source or Source({"name": inputs.name})
    return {
        "schema_version": SCHEMA_VERSION,
        "loop": experiment.loop,
        "model": _with_absolute_path(_model_name(model, plan.hparams)),
        "hparams": hparams_values(plan.hparams),
        "data": dict(source.data),
        "retention": source.retention,
        "text": source.text,
        "capability": source.capability,
        **scoring_config(experiment),
        "task": checked.task,
        **loop_settings(plan),
        "schedule": plan.schedule.to_dict(),
        "trackers": list(experiment.trackers),
        "recorded": {
            "method": plan.method.name,
            "n_requests": len(inputs.requests),
            "weights": _fingerprint(model),
            "requests_sha256": requests_digest(checked.usable, checked.retention, inputs.text, inputs.capability),
        },
    }


def loop_settings(plan: Plan) -> dict[str, Any]:
    """Return the entries of ``config.yaml`` that only one of the loops has."""
    experiment = plan.experiment
    if plan.batched:
        return {
            "batch_size": plan.batch_size,
            "protocol": experiment.protocol,
            "skip_unusable": experiment.skip_unusable,
        }
    # skip_unusable only if it is set: lifelong runs of earlier releases, which can be resumed, don't have it.
    return {"only_errors": experiment.only_errors, **({"skip_unusable": True} if experiment.skip_unusable else {})}


def summary_settings(plan: Plan, model: Any, checked: CheckedData, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that ``summary.json`` repeats and trackers receive.

    Args:
        plan: the plan of the run.
        model: the unedited model.
        checked: the data, checked against the model.
        config: the content of ``config.yaml``.
    """
    return {
        "loop": config["loop"],
        "method": plan.method.name,
        "model": model_label(model),
        "data": checked.inputs.name,
        "n_requests": len(checked.inputs.requests),
        **{name: config[name] for name in ("protocol", "batch_size", "only_errors", "chat") if name in config},
        "eval_every": plan.schedule.every,
        "schedule": config["schedule"],
        "weights": config["recorded"]["weights"],
        "requests_sha256": config["recorded"]["requests_sha256"],
        "hparams": config["hparams"],
    }


def write_data(folder: Path, config: dict[str, Any], checked: CheckedData) -> dict[str, Any]:
    """Write data that a program passed in memory into a run's folder.

    Args:
        folder: the run's folder.
        config: the content of ``config.yaml`` (:func:`run_config`).
        checked: the data.

    Returns:
        The config with the time of the start and, if data were written, the names of their files.

    Raises:
        RunError: a file cannot be written.
    """
    inputs = checked.inputs
    config = {**config, "recorded": {**config["recorded"], "started": now()}}
    if inputs.source is not None:
        return config
    records = [_to_record(request) for request in inputs.requests]
    if [_from_record(record) for record in records] != inputs.requests:
        return config  # no file can hold these requests unchanged; the run cannot be repeated from its folder
    files = {REQUESTS: "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)}
    if inputs.text is not None:
        config["text"], files[TEXT] = TEXT, inputs.text
    if inputs.capability:
        items = [item.to_dict() for item in inputs.capability]
        config["capability"], files[CAPABILITY] = CAPABILITY, json.dumps(items, indent=1, ensure_ascii=False) + "\n"
    config["data"] = {**config["data"], "path": REQUESTS, "format": "json"}
    if inputs.retention is not None:
        facts = [{"prompt": probe.prompt, "answer": probe.answer} for probe in inputs.retention]
        config["retention"] = RETENTION if facts else []
        files |= {RETENTION: json.dumps(facts, indent=1, ensure_ascii=False) + "\n"} if facts else {}
    for name, text in files.items():
        with translated_write_errors(folder / name):
            write_text_atomically(folder / name, text, newline="")  # line ends are part of a held-out text
    return config


def scoring_config(experiment: Experiment) -> dict[str, Any]:
    """Return the entries of ``config.yaml`` about optional scores and the chat form, those that the experiment has."""
    entries: dict[str, Any] = {}
    tasks = experiment.lm_eval
    if tasks is not None:
        path = None if tasks.path is None else str(expanded_path(tasks.path, DataError).resolve())
        entries["lm_eval"] = {"tasks": list(tasks.names), "path": path, "limit": tasks.limit}
    if experiment.chat is not None:
        entries["chat"] = {"system": experiment.chat.system}
    if experiment.carry_over:
        entries["carry_over"] = True
    if experiment.self_consistency:
        entries["self_consistency"] = True
    if experiment.judge is not None:
        entries["judge"] = experiment.judge
    return entries


def _to_record(request: EditRequest) -> dict[str, Any]:
    """Return a request in EasyEdit's request fields."""
    locality = dict(request.locality)
    if request.relation_specificity:
        locality[RELATION_SPECIFICITY] = request.relation_specificity
    record: dict[str, Any] = {"case_id": request.case_id, "prompt": request.prompt, "target_new": request.target_new}
    for name, value in (
        ("subject", request.subject),
        ("aliases", list(request.aliases)),
        ("ground_truth", request.ground_truth),
        ("rephrase_prompt", list(request.rephrase_prompts)),
        ("locality", _probe_fields(locality)),
        ("portability", _probe_fields(request.portability)),
    ):
        if value:
            record[name] = value
    if request.joiner is not None:
        record["joiner"] = request.joiner
    if request.context_turns:
        record["context_turns"] = [{"role": role, "content": content} for role, content in request.context_turns]
    return record


def _probe_fields(probes_by_name: Mapping[str, Sequence[Probe]]) -> dict[str, Any]:
    """Return named sets of probes in EasyEdit's request fields."""
    return {
        name: {"prompt": [probe.prompt for probe in probes], "ground_truth": [probe.answer for probe in probes]}
        for name, probes in probes_by_name.items()
    }


def _from_record(record: dict[str, Any]) -> EditRequest | None:
    """Return the request that is read from a record; None if it cannot be read."""
    try:
        return EditRequest.from_dict(record, "request")
    except DataError:
        return None


def _fingerprint(model: Any) -> str | None:
    """Return the fingerprint of the model's weights; None if they are not in memory."""
    try:
        return model_fingerprint(model)[:16]
    except ModelError:
        return None


def _model_name(model: Any, hparams: Any) -> str:
    """Return the name or path that the model was loaded from or, if it is unknown, the hyperparameters' name."""
    label = model_label(model)
    if label != type(model).__name__:  # the label is the class's name if the model's source is unknown
        return label
    name_in_hparams = getattr(hparams, "model_name", None)
    return name_in_hparams if isinstance(name_in_hparams, str) and name_in_hparams else label


def _with_absolute_path(name: str) -> str:
    """Return a model's name; if it is a local folder or file, its absolute path, which is valid from any folder."""
    path = Path(name)
    is_local = path.is_dir() or (path.suffix == ".gguf" and path.is_file())
    return str(path.resolve()) if is_local and name not in PACKAGED_MODELS else name
