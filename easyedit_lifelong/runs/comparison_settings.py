"""The settings of a comparison: the file ``compare.yaml`` in its folder, and what may differ when it is continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.hparams_files import hparams_values, read_mapping
from easyedit_lifelong.runs.compared_methods import COMPARISON_FILE
from easyedit_lifelong.runs.experiment import Experiment, Inputs
from easyedit_lifelong.runs.requests_digest import requests_digest
from easyedit_lifelong.runs.run_config import scoring_config
from easyedit_lifelong.runs.run_folder import SCHEMA_VERSION
from easyedit_lifelong.runs.setting_changes import setting_changes
from easyedit_lifelong.write_errors import translated_write_errors

_NOT_COMPARED = ("data.", "retention.", "text.", "capability.", "lm_eval.path.", "schema_version.")
"""Prefixes of the settings that may differ when a comparison is continued: paths of data, of which a digest counts."""
_HPARAMS_NOT_COMPARED = ("device", "model_parallel", "mom2_engine")


def comparison_config(shared: Experiment, experiments: dict[str, Experiment], inputs: Inputs) -> dict[str, Any]:
    """Return the content of ``compare.yaml`` in a new folder.

    Args:
        shared: the settings of all methods.
        experiments: the experiment of each method, by its label.
        inputs: the data, read from files.
    """
    methods = {label: hparams_values(experiment.hparams) for label, experiment in experiments.items()}
    return {"schema_version": SCHEMA_VERSION, "loop": shared.loop, "methods": methods, **config_of(shared, inputs)}


def config_of(shared: Experiment, inputs: Inputs) -> dict[str, Any]:
    """Return the settings of runs in the form of an experiment file, without the loop and the hyperparameters.

    Args:
        shared: the settings.
        inputs: the data, read from files.
    """
    source = inputs.source
    assert source is not None
    return {
        "data": dict(source.data),
        "retention": source.retention,
        "text": source.text,
        "capability": source.capability,
        **scoring_config(shared),
        "task": shared.task,
        "batch_size": shared.batch_size,
        "protocol": shared.protocol,
        "skip_unusable": shared.skip_unusable,
        "schedule": shared.schedule.to_dict(),
        "recorded": {
            "requests_sha256": requests_digest(inputs.requests, inputs.retention or [], inputs.text, inputs.capability)
        },
    }


def merge_stored(out: Path, config: dict[str, Any], defaults: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Check the settings against those in the folder, and return them with the methods that only the folder has.

    Args:
        out: the folder of the comparison.
        config: the content of ``compare.yaml`` for the present settings.
        defaults: the default hyperparameters of each method, for those that a file of an older release lacks.

    Raises:
        RunError: the folder holds a comparison with other settings; the message lists the differences.
    """
    file = out / COMPARISON_FILE
    if not file.is_file():
        return config
    written = read_settings(file, "the settings of a comparison")
    stored = written.get("methods")
    stored_methods = stored if isinstance(stored, dict) else {}
    both = [label for label in config["methods"] if label in stored_methods]
    before = {
        label: _compared({**defaults[label], **values}) if isinstance(values := stored_methods[label], dict) else values
        for label in both
    }
    present = {label: _compared(config["methods"][label]) for label in both}
    changes = setting_changes({**written, "methods": before}, {**config, "methods": present}, _NOT_COMPARED)
    if changes:
        raise RunError(
            f"{out}: holds a comparison with other settings: {'; '.join(changes)}. Choose what it began with, or "
            "another folder with --out."
        )
    return {**config, "methods": {**stored_methods, **config["methods"]}}


def write_config(out: Path, config: dict[str, Any], defaults: Mapping[str, dict[str, Any]]) -> Path:
    """Write the settings of a comparison into its folder, beside the methods that only the folder has.

    The arguments are those of :func:`merge_stored`. The caller holds the folder's lock, so that no other process writes
    its methods between the reading and the writing.

    Returns:
        The file.

    Raises:
        RunError: the folder holds a comparison with other settings, or the file can't be written.
    """
    file, merged = out / COMPARISON_FILE, merge_stored(out, config, defaults)
    with translated_write_errors(file):
        write_text_atomically(file, yaml.safe_dump(merged, sort_keys=False, allow_unicode=True))
    return file


def read_settings(file: Path, content: str) -> dict[str, Any]:
    """Return the settings that a folder of several runs holds.

    Args:
        file: the YAML file.
        content: what it holds, for messages.

    Raises:
        RunError: it can't be read, or isn't a mapping.
    """
    try:
        return read_mapping(file, content)
    except HyperParameterError as error:
        raise RunError(f"{error}. Choose another folder with --out.") from error


def _compared(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters without those that may differ when a comparison is continued."""
    return {name: value for name, value in hparams.items() if name not in _HPARAMS_NOT_COMPARED}
