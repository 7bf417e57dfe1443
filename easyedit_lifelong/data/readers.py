"""Read dataset files into validated requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.data import hub_datasets as hub
from easyedit_lifelong.data.files import label_text, located, read_records, require_texts
from easyedit_lifelong.data.native_loaders import counterfact_records, zsre_records
from easyedit_lifelong.data.request import EditRequest, check_unique
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
    """Read a file in MEND's zsRE form: through EasyEdit's ``ZsreDataset`` if EasyEdit is there, else natively.

    Raises:
        DataError: the file or a record can't be used.
    """
    records = read_records(path)
    for where, record in located(path, records):
        require_texts(where, record, _ZSRE_TEXTS)
        answers = record.get("answers")
        if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
            raise DataError(f"{where}, field 'answers': must be a list that begins with the true answer")
        if "nq question: " not in record["loc"]:
            raise DataError(f"{where}, field 'loc': must contain 'nq question: ' (EasyEdit's loader asks for it)")
    return _requests(path, _loaded("zsre", path, records, zsre_records))


def read_zsre_rephrased(path: Path) -> list[EditRequest]:
    """Read zsRE with its many rephrasings, the JSON Lines that GRACE's experiment reads.

    The files are called ``structured_zeroshot-….jsonl``. As in that experiment, the model is to give the true
    answer: ``input`` is the prompt, the first of ``output`` the target, ``filtered_rephrases`` the rephrasings.
    (There, facts with fewer than ten rephrasings are used without, and only the first ten of the others; here
    all are kept. See :func:`~easyedit_lifelong.data.holdout.split_rephrasings` for editing with some of them.)

    Raises:
        DataError: the file or a record can't be used.
    """
    records = []
    for where, record in located(path, read_records(path)):
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
    return _requests(path, records)


def read_counterfact(path: Path) -> list[EditRequest]:
    """Read a file in EasyEdit's CounterFact form: through its ``CounterFactDataset`` if it is there, else natively.

    Raises:
        DataError: the file or a record can't be used.
    """
    records = read_records(path)
    for where, record in located(path, records):
        require_texts(where, record, _COUNTERFACT_TEXTS)
    return _requests(path, _loaded("counterfact", path, records, counterfact_records))


def read_hallucination(path: Path) -> list[EditRequest]:
    """Read SelfCheckGPT's passages as WISE prepares them (``hallucination-edit.json``).

    The prompt is a Wikipedia passage so far, ``target_new`` its next sentence, corrected; the locality text is
    cut in two, and the second half is the answer (a set called ``neighborhood``, as in WISE's script). The
    published file has texts too short to be cut, whose second half is empty. There is nothing to ask then: such
    a record is edited like any other but has no locality question, and a warning lists them.

    Raises:
        DataError: the file or a record can't be used.
    """
    records, unasked = [], []
    for index, (where, record) in enumerate(located(path, read_records(path))):
        require_texts(where, record, _HALLUCINATION_TEXTS)
        answer = record.get("locality_ground_truth")
        if isinstance(answer, str) and not answer.strip():
            record = {key: value for key, value in record.items() if not key.startswith("locality_")}
            unasked.append(index)
        records.append(record)
    requests = _requests(path, records)
    if unasked:
        LOG.warning(
            "%s: locality isn't asked in %d of %d records, whose locality text has no second half (%s)",
            path,
            len(unasked),
            len(requests),
            _listed(unasked),
        )
    return requests


def read_labelled(path: Path) -> list[EditRequest]:
    """Read texts with labels, for classifiers: ``{"text": …, "label": …}``, the label a name or a number.

    Raises:
        DataError: the file or a record can't be used.
    """
    records = []
    for where, record in located(path, read_records(path)):
        record = {**record, "label": label_text(record.get("label"))} if isinstance(record, dict) else record
        require_texts(where, record, ("text", "label"))
        records.append({"prompt": record["text"], "target_new": record["label"]})
    return _requests(path, records)


def read_json(path: Path) -> list[EditRequest]:
    """Read a JSON list, or JSON Lines, of records in EasyEdit's request fields.

    Raises:
        DataError: the file or a record can't be used.
    """
    return _requests(path, read_records(path))


def read_requests(path: Path | str, read: Callable[[Path], Iterable[EditRequest]]) -> list[EditRequest]:
    """Read a dataset with a reader, and check what no single record shows.

    Args:
        path: a file, or a dataset by name: ``hub:OWNER/NAME[[:CONFIG]:SPLIT]``.
        read: the reader.

    Raises:
        DataError: the data isn't there, holds nothing, or uses a ``case_id`` twice.
    """
    if hub.is_name(path):
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


def _loaded(
    name: str, path: Path, records: list[Any], native: Callable[[list[Any]], list[dict[str, Any]]]
) -> Sequence[Mapping[str, Any]]:
    """Return a format's records in EasyEdit's request fields, by the registered loader if it is available.

    Raises:
        DataError: the file is JSON Lines, which EasyEdit's loaders cannot read, or the loader refuses it.
    """
    if path.suffix == ".jsonl":
        raise DataError(f"{path}: EasyEdit's loaders read a JSON list, not JSON Lines. Save the records as one list.")
    loaders = get_plugins().loaders
    if name in loaders and loaders.get(name).available():
        return loaders.get(name).load(path)
    return native(records)


def _requests(path: Path, records: Sequence[Any]) -> list[EditRequest]:
    return [
        EditRequest.from_dict(record, where, case_id=index)
        for index, (where, record) in enumerate(located(path, records))
    ]


def _listed(indices: Sequence[int], most: int = 10) -> str:
    shown = ", ".join(map(str, indices[:most]))
    return f"record{'s' if len(indices) > 1 else ''} {shown}" + (
        f" and {len(indices) - most} more" if len(indices) > most else ""
    )
