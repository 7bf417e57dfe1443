"""Read dataset files as validated requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.json_files import label_as_text, name_records, read_records, require_texts
from easyedit_lifelong.data.request import EditRequest, check_unique
from easyedit_lifelong.data.zsre_counterfact import counterfact_records, zsre_records
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins

LOG = logging.getLogger(__name__)

_ZSRE_TEXTS = ("src", "alt", "rephrase", "loc", "loc_ans")
_COUNTERFACT_TEXTS = (
    "prompt",
    "target_new",
    "ground_truth",
    "rephrase_prompt",
    "locality_prompt",
    "locality_ground_truth",
)
_HALLUCINATION_TEXTS = ("prompt", "target_new", "locality_prompt")


def read_zsre(path: Path) -> list[EditRequest]:
    """Read a zsRE file in MEND's form, with EasyEdit's ``ZsreDataset`` if EasyEdit is installed, else natively.

    Raises:
        DataError: the file or a record is invalid.
    """
    records = read_records(path)
    for where, record in name_records(path, records):
        require_texts(where, record, _ZSRE_TEXTS)
        answers = record.get("answers")
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
            raise DataError(f"{where}, field 'answers': must be a list that begins with the true answer")
        if "nq question: " not in record["loc"]:
            raise DataError(f"{where}, field 'loc': must contain 'nq question: ' (EasyEdit's loader requires it)")
    return _make_requests(path, _load_records("zsre", path, records, zsre_records))


def read_zsre_rephrased(path: Path) -> list[EditRequest]:
    """Read zsRE with many rephrasings: the JSON Lines files of GRACE's experiment.

    The files have names like ``structured_zeroshot-….jsonl``. As in that experiment, the target is the true answer:
    ``input`` is the prompt, the first answer of ``output`` is the target, and ``filtered_rephrases`` has the
    rephrasings. All rephrasings are kept. (GRACE's experiment uses the first ten, and none of a fact with fewer.)
    :func:`~easyedit_lifelong.data.holdout.split_rephrasings` turns some of them into edits.

    Raises:
        DataError: the file or a record is invalid.
    """
    records = []
    for where, record in name_records(path, read_records(path)):
        require_texts(where, record, ("input",))
        outputs = record.get("output")
        answers = [out.get("answer") for out in outputs if isinstance(out, dict)] if isinstance(outputs, list) else []
        if not answers or not isinstance(answers[0], str) or not answers[0].strip():
            raise DataError(f"{where}, field 'output': must be a list that begins with {{\"answer\": the true answer}}")
        rephrasings = record.get("filtered_rephrases")
        if rephrasings is not None and not isinstance(rephrasings, list):
            raise DataError(f"{where}, field 'filtered_rephrases': must be a list of texts")
        fields = {"prompt": record["input"], "target_new": answers[0], "ground_truth": answers[0]}
        records.append({**fields, "rephrase_prompt": rephrasings})
    return _make_requests(path, records)


def read_counterfact(path: Path) -> list[EditRequest]:
    """Read a CounterFact file in EasyEdit's form, with its ``CounterFactDataset`` if installed, else natively.

    Raises:
        DataError: the file or a record is invalid.
    """
    records = read_records(path)
    for where, record in name_records(path, records):
        require_texts(where, record, _COUNTERFACT_TEXTS)
    return _make_requests(path, _load_records("counterfact", path, records, counterfact_records))


def read_hallucination(path: Path) -> list[EditRequest]:
    """Read SelfCheckGPT's passages as WISE prepares them (``hallucination-edit.json``).

    The prompt is the beginning of a Wikipedia passage, and ``target_new`` is its next sentence, corrected. The locality
    text is cut in two: the first half is a locality prompt and the second half its answer, in a set called
    ``neighborhood``, as in WISE's script. In the published file, some texts are too short to be cut, so that their
    second half is empty. Such a record gets no locality prompt; a warning lists these records.

    Raises:
        DataError: the file or a record is invalid.
    """
    records, without_locality = [], []
    for index, (where, record) in enumerate(name_records(path, read_records(path))):
        require_texts(where, record, _HALLUCINATION_TEXTS)
        answer = record.get("locality_ground_truth")
        if isinstance(answer, str) and not answer.strip():
            record = {key: value for key, value in record.items() if not key.startswith("locality_")}
            without_locality.append(index)
        records.append(record)
    requests = _make_requests(path, records)
    if without_locality:
        LOG.warning(
            "%s: locality is not scored in %d of %d records, because their locality text has no second half (%s)",
            path,
            len(without_locality),
            len(requests),
            _list_records(without_locality),
        )
    return requests


def read_labelled(path: Path) -> list[EditRequest]:
    """Read labelled texts for classifiers: ``{"text": …, "label": …}``, where the label is a name or a number.

    Raises:
        DataError: the file or a record is invalid.
    """
    records = []
    for where, record in name_records(path, read_records(path)):
        record = {**record, "label": label_as_text(record.get("label"))} if isinstance(record, dict) else record
        require_texts(where, record, ("text", "label"))
        records.append({"prompt": record["text"], "target_new": record["label"]})
    return _make_requests(path, records)


def read_json(path: Path) -> list[EditRequest]:
    """Read a JSON list, or JSON Lines, of records with EasyEdit's request fields.

    Raises:
        DataError: the file or a record is invalid.
    """
    return _make_requests(path, read_records(path))


def read_requests(path: Path | str, read: Callable[[Path], Iterable[EditRequest]]) -> list[EditRequest]:
    """Read a dataset with the reader of its format, and check that it has records and unique case_ids.

    Args:
        path: a file, or the name of a dataset: ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        read: reads a file of the format.

    Raises:
        DataError: the dataset doesn't exist, has no records or invalid ones, or uses a ``case_id`` twice.
    """
    if hub.is_hub_name(path):
        requests = hub.read_requests(str(path), read)
    else:
        path = Path(path).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such data file")
        requests = list(read(path))
    if not requests:
        raise DataError(f"{path}: holds no records")
    check_unique(requests)
    return requests


def _load_records(
    format_name: str, path: Path, records: list[Any], native: Callable[[list[Any]], list[dict[str, Any]]]
) -> Sequence[Mapping[str, Any]]:
    """Return a file's records with EasyEdit's request fields.

    Args:
        format_name: name of the format and of its registered loader.
        path: the file.
        records: the file's records.
        native: converts the records if the registered loader isn't available.

    Raises:
        DataError: the file is JSON Lines, which EasyEdit's loaders can't read, or the loader refuses it.
    """
    if path.suffix == ".jsonl":
        raise DataError(f"{path}: EasyEdit's loaders read a JSON list, not JSON Lines. Save the records as one list.")
    loaders = get_plugins().loaders
    if format_name in loaders and loaders.get(format_name).available():
        return loaders.get(format_name).load(path)
    return native(records)


def _make_requests(path: Path, records: Sequence[Any]) -> list[EditRequest]:
    """Validate records; the default of ``case_id`` is the index of the record."""
    return [
        EditRequest.from_dict(record, where, case_id=index)
        for index, (where, record) in enumerate(name_records(path, records))
    ]


def _list_records(indices: Sequence[int], limit: int = 10) -> str:
    """Return the numbers of records as text; only the first ``limit``."""
    shown = ", ".join(map(str, indices[:limit]))
    rest = f" and {len(indices) - limit} more" if len(indices) > limit else ""
    return f"record{'s' if len(indices) > 1 else ''} {shown}{rest}"
