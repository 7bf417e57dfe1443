"""The data of a run: read what an experiment names, and describe where it came from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.format_files import is_format_file, read_format_file
from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.holdout import split_rephrasings
from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem, read_multiple_choice
from easyedit_lifelong.data.readers import check_usable, read_results
from easyedit_lifelong.data.reading_notes import collected_messages
from easyedit_lifelong.data.repeats import edited_probe_notes, repeat_notes
from easyedit_lifelong.data.request import EditRequest, Probe, check_unique
from easyedit_lifelong.data.retention import read_retention
from easyedit_lifelong.data.samples import CAPABILITY, retention_probes
from easyedit_lifelong.data.shuffling import shuffled
from easyedit_lifelong.digests import file_digest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.text_scores import read_text
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.registry import DatasetReader
from easyedit_lifelong.runs.experiment import SAMPLES, Data, Experiment, Inputs, Source

LOG = logging.getLogger(__name__)


def read_inputs(experiment: Experiment, seed: int) -> Inputs:
    """Read the data of an experiment, or check them if they are in memory.

    Args:
        experiment: the settings of the run.
        seed: the seed of the choice of rephrasings that become edits, and of the order of shuffled records.

    Raises:
        DataError: a file cannot be read, has another SHA-256 than the experiment says, or holds no requests; or two
            requests have the same case_id.
        PluginError: the experiment names a format that is not registered.
    """
    inputs = experiment.data if isinstance(experiment.data, Inputs) else _read(experiment, experiment.data, seed)
    if not inputs.requests:
        raise DataError("there are no requests to edit")
    check_unique(inputs.requests)
    return inputs


def reader_of(path: Path | str, data_format: str | None) -> DatasetReader:
    """Return the reader of a dataset's format; without a format, recognise it by the file's content.

    Args:
        path: the dataset.
        data_format: the name of a registered format, a YAML file that describes one, or None.

    Raises:
        DataError: the YAML file can't be used.
        PluginError: the format is not registered.
    """
    if data_format and is_format_file(data_format):
        return read_format_file(Path(data_format))
    return get_plugins().readers.get(data_format or guess_format(path))


def _digest(path: Path) -> str:
    """Return a data file's SHA-256.

    Raises:
        DataError: the file can't be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error


def _read(experiment: Experiment, data: Data, seed: int) -> Inputs:
    """Read the requests, and what else the experiment scores."""
    reader = reader_of(data.path, data.format)
    with collected_messages() as notes:
        records, unusable = _read_records(experiment, data, reader, seed)
    retention = _read_retention(experiment)
    held_out = retention_probes() if retention is None else retention
    for note in repeat_notes(data.path, records) + edited_probe_notes(data.path, records, held_out):
        LOG.warning("%s", note)
        notes.append(note)
    return Inputs(
        split_rephrasings(records, data.edit_with, seed),
        retention,
        _read_text(experiment),
        _read_capability(experiment),
        name=data.path,
        task=reader.task,
        source=_source(experiment, data, reader.name),
        unusable=[str(error) for error in unusable],
        notes=notes,
    )


def _read_records(
    experiment: Experiment, data: Data, reader: DatasetReader, seed: int
) -> tuple[list[EditRequest], list[DataError]]:
    """Read the requests of a dataset, after a check of its SHA-256; return them, and the errors of skipped records."""
    _check_exists(experiment, data.path, "data.path", "--data")
    if data.sha256 is not None and not hub.is_hub_name(data.path):
        digest = _digest(Path(data.path))
        if digest != data.sha256.lower():
            raise DataError(
                f"{experiment.setting('data.sha256', '--data')}: {data.path} has the SHA-256 {digest}, not "
                f"{data.sha256}: these aren't the data that the experiment was made with."
            )
    limit = None if data.edits is None or data.shuffle else data.offset + data.edits
    requests, unusable = read_results(data.path, reader.read, limit=limit)
    check_usable(data.path, reader.read, requests, unusable, skip_unusable=experiment.skip_unusable)
    if data.offset >= len(requests):
        raise DataError(
            f"{experiment.setting('data.offset', '--offset')}: {counted(data.offset, 'record')} to skip, but "
            f"{data.path} has only {len(requests)}"
        )
    following = requests[data.offset :]
    if data.shuffle:
        check_unique(requests)
        following = shuffled(following, seed)
    return following[: data.edits], unusable


def _check_exists(experiment: Experiment, path: str, key: str, option: str) -> None:
    """Check that a file that an experiment file names exists.

    Args:
        experiment: the experiment; without an experiment file, nothing is checked.
        path: the file, or a dataset's name on the Hub.
        key: the key of the experiment file that names it.
        option: the command-line option that names it.

    Raises:
        DataError: the file does not exist.
    """
    if experiment.source and not hub.is_hub_name(path) and not Path(path).is_file():
        raise DataError(
            f"{experiment.setting(key, option)}: {path}: no such file, neither beside the experiment file nor in the "
            "current folder"
        )


def _read_retention(experiment: Experiment) -> list[Probe] | None:
    """Read the held-out facts; None for the sample data's."""
    if experiment.retention is None:
        return None
    if isinstance(experiment.retention, tuple):
        return []
    _check_exists(experiment, experiment.retention, "retention", "--retention")
    return read_retention(experiment.retention)


def _read_text(experiment: Experiment) -> str | None:
    """Read the held-out text, if the experiment names one."""
    if experiment.text is None:
        return None
    try:
        return read_text(experiment.text)
    except DataError as error:
        raise DataError(f"{experiment.setting('text', '--text')}: {error}") from error


def _read_capability(experiment: Experiment) -> list[MultipleChoiceItem]:
    """Read the multiple-choice questions, if the experiment has any."""
    if not experiment.capability:
        return []
    path = CAPABILITY if experiment.capability is True else experiment.capability
    try:
        return read_multiple_choice(path)
    except DataError as error:
        raise DataError(f"{experiment.setting('capability', '--capability')}: {error}") from error


def _source(experiment: Experiment, data: Data, data_format: str) -> Source:
    """Return where the data came from, as the run's ``config.yaml`` writes it."""
    data_format = str(_absolute(data_format)) if is_format_file(data_format) else data_format
    section: dict[str, Any] = {"path": _absolute(data.path), "format": data_format}
    sample = next((name for name, path in SAMPLES.items() if data.path == str(path)), None)
    if sample is not None:
        section = {"sample": sample, "format": data_format}
    elif not hub.is_hub_name(data.path):
        section["sha256"] = _digest(expanded_path(data.path, DataError))
    section["edits"] = data.edits
    if data.offset:
        section["offset"] = data.offset
    if data.shuffle:
        section["shuffle"] = True
    if data.edit_with:
        section["edit_with"] = data.edit_with
    retention = experiment.retention
    recorded_retention: str | list[Any] | None = [] if isinstance(retention, tuple) else _absolute(retention)
    capability = experiment.capability
    recorded_capability = _absolute(capability) if isinstance(capability, str) else capability
    return Source(section, recorded_retention, _absolute(experiment.text), recorded_capability)


def _absolute(path: str | None) -> str | None:
    """Return a file's absolute path; None, and the name of a dataset on the Hub, stay as they are."""
    return path if not path or hub.is_hub_name(path) else str(expanded_path(path, DataError).resolve())
