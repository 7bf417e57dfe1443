"""Read dataset files as validated requests."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.guess_format import format_advice
from easyedit_lifelong.data.reading import ReadResult, read_each, read_fields, separate, unusable_records
from easyedit_lifelong.data.record_fields import FieldNames, RecordFields
from easyedit_lifelong.data.request import EditRequest, check_unique
from easyedit_lifelong.data.zsre_counterfact import COUNTERFACT_FIELDS, ZSRE_FIELDS, is_complete, zsre_request
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_REPHRASED_FIELDS: FieldNames = {
    "prompt": ("input",),
    "target_new": ("output",),
    "rephrase_prompt": ("filtered_rephrases",),
}
_LABELLED_FIELDS: FieldNames = {"prompt": ("text",), "target_new": ("label",)}


def read_zsre(path: Path) -> list[ReadResult]:
    """Read a zsRE file in MEND's form, with EasyEdit's ``ZsreDataset`` if EasyEdit is installed, else natively.

    Raises:
        DataError: the file can't be read.
    """
    return _read_with_loader("zsre", path, read_each(path, zsre_request, ZSRE_FIELDS))


def read_zsre_rephrased(path: Path) -> Iterator[ReadResult]:
    """Read zsRE with many rephrasings: the JSON Lines files of GRACE's experiment.

    The files have names like ``structured_zeroshot-….jsonl``. As in that experiment, the target is the true answer:
    ``input`` is the prompt, the first answer of ``output`` is the target, and ``filtered_rephrases`` has the
    rephrasings. All rephrasings are kept. (GRACE's experiment uses the first ten, and none of a fact with fewer.)
    :func:`~easyedit_lifelong.data.holdout.split_rephrasings` turns some of them into edits.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _rephrased_request, _REPHRASED_FIELDS)


def read_counterfact(path: Path) -> list[ReadResult]:
    """Read a CounterFact file in EasyEdit's form, with its ``CounterFactDataset`` if installed, else natively.

    Raises:
        DataError: the file can't be read.
    """
    return _read_with_loader("counterfact", path, read_fields(path, COUNTERFACT_FIELDS))


def read_hallucination(path: Path) -> Iterator[ReadResult]:
    """Read SelfCheckGPT's passages as WISE prepares them (``hallucination-edit.json``).

    The prompt is the beginning of a Wikipedia passage, and ``target_new`` is its next sentence, corrected. The locality
    text is cut in two: the first half is a locality prompt and the second half its answer, in a set called
    ``neighborhood``, as in WISE's script. In the published file, some texts are too short to be cut, so that their
    second half is empty. Such a record gets no locality prompt; a warning lists these records.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path)


def read_labelled(path: Path) -> Iterator[ReadResult]:
    """Read labelled texts for classifiers: ``{"text": …, "label": …}``, where the label is a name or a number.

    Raises:
        DataError: the file can't be read.
    """
    return read_each(path, _labelled_request, _LABELLED_FIELDS)


def read_json(path: Path) -> Iterator[ReadResult]:
    """Read a JSON list, JSON Lines or a table of records with EasyEdit's request fields.

    Raises:
        DataError: the file can't be read.
    """
    return read_fields(path)


def read_requests(
    path: Path | str,
    read: Callable[[Path], Iterable[ReadResult]],
    *,
    skip_unusable: bool = False,
    limit: int | None = None,
) -> list[EditRequest]:
    """Read a dataset with the reader of its format, and check that it has records and unique case_ids.

    Args:
        path: a file, or the name of a dataset: ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        read: reads a file of the format.
        skip_unusable: whether to leave out records that can't be used, with a warning.
        limit: read only this many requests, from the beginning.

    Raises:
        DataError: the dataset doesn't exist, has no records or unusable ones, or uses a ``case_id`` twice.
    """
    requests, unusable = read_results(path, read, limit=limit)
    check_usable(path, read, requests, unusable, skip_unusable=skip_unusable)
    return requests


def read_results(
    path: Path | str, read: Callable[[Path], Iterable[ReadResult]], *, limit: int | None = None
) -> tuple[list[EditRequest], list[DataError]]:
    """Return the requests of a dataset, and the errors of the records that can't be used.

    The arguments are those of :func:`read_requests`.

    Raises:
        DataError: the dataset doesn't exist, can't be read, has no records, or uses a ``case_id`` twice.
    """
    if hub.is_hub_name(path):
        requests, unusable = hub.read_results(str(path), read, limit)
    else:
        path = expanded_path(path, DataError)
        if not path.is_file():
            raise DataError(f"{path}: {'is a folder, not a data file' if path.is_dir() else 'no such data file'}")
        requests, unusable = separate(read(path), limit)
    if not requests and not unusable:
        raise DataError(f"{path}: holds no records")
    check_unique(requests)
    return requests, unusable


def check_usable(
    path: Path | str,
    read: Callable[[Path], Iterable[ReadResult]],
    requests: list[EditRequest],
    unusable: list[DataError],
    *,
    skip_unusable: bool,
) -> None:
    """Check that all records of a dataset can be used or, with ``skip_unusable``, that some can.

    Args:
        path: the dataset.
        read: the reader that read it.
        requests: its requests.
        unusable: the errors of the other records.
        skip_unusable: whether these are only reported, in a warning.

    Raises:
        DataError: a record can't be used; the message lists all of them.
    """
    if not unusable:
        return
    if skip_unusable and requests:
        LOG.warning("%s", unusable_records(path, unusable, len(requests)))
        return
    used = next((reader for reader in get_plugins().readers if reader.read is read), None)
    leave_out = " Correct them, or leave them out with --skip-unusable ('skip_unusable: true' in a YAML file)."
    advice = leave_out if requests else format_advice(path, used)
    if len(unusable) == 1:
        raise DataError(str(unusable[0]) + ("" if requests else advice)) from unusable[0]
    raise DataError(unusable_records(path, unusable, len(requests), advice)) from unusable[0]


def _read_with_loader(format_name: str, path: Path, results: Iterable[ReadResult]) -> list[ReadResult]:
    """Return the requests of a file, by the registered loader of its format if that is available.

    The loader gives the same requests as the native reader, but reads only complete records: it would stop at others
    without naming them, or leave them out silently.

    Args:
        format_name: name of the format and of its registered loader.
        path: the file.
        results: what the native reader yields.

    Raises:
        DataError: the file is JSON Lines, which EasyEdit's loaders can't read, or the loader refuses it.
    """
    if path.suffix.lower() == ".jsonl":
        raise DataError(f"{path}: EasyEdit's loaders read a JSON list, not JSON Lines. Save the records as one list.")
    native = list(results)
    loaders = get_plugins().loaders
    if format_name not in loaders or not loaders.get(format_name).available() or not _loadable(path, native):
        return native
    records = enumerate(loaders.get(format_name).load(path))
    return [EditRequest.from_dict(record, f"{path}, record {index}", index) for index, record in records]


def _loadable(path: Path, results: Iterable[ReadResult]) -> bool:
    """Whether EasyEdit's loaders can read a file: a JSON list of complete records, without a byte order mark."""
    return path.suffix.lower() == ".json" and not _has_bom(path) and all(map(is_complete, results))


def _has_bom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == codecs.BOM_UTF8


def _rephrased_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a zsRE record with many rephrasings."""
    outputs = fields.record.get("output")
    answers = [out.get("answer") for out in outputs if isinstance(out, dict)] if isinstance(outputs, list) else []
    if not answers or not isinstance(answers[0], str) or not answers[0].strip():
        raise fields.error("output", 'must be a list that begins with {"answer": the true answer}')
    answer = fields.check_text("output", answers[0]).strip()
    prompt, rephrasings = fields.required_text("prompt"), fields.texts("rephrase_prompt")
    return [EditRequest(index, prompt, answer, ground_truth=answer, rephrase_prompts=rephrasings, source=fields.where)]


def _labelled_request(fields: RecordFields, index: int) -> list[EditRequest]:
    """Return the request of a labelled text."""
    label = fields.label("target_new").strip()
    return [EditRequest(index, fields.required_text("prompt"), label, source=fields.where)]
