"""The records of many edits as two tensors, which can be opened without parsing every record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.lazy_list import LazyList
from easyedit_lifelong.parsing import parse_json

_TEXT, _ENDS = "records.{}", "record_ends.{}"


def record_columns(part: int, edits: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the records of a part's edits as tensors.

    Args:
        part: the number of the part.
        edits: the records, ready for JSON.

    Returns:
        ``records.PART``, the bytes of one line of JSON for each edit, and ``record_ends.PART``, the number of bytes up
        to the end of each line.
    """
    text = bytearray()
    ends = []
    for edit in edits:
        text += json.dumps(dict(edit), ensure_ascii=False).encode() + b"\n"
        ends.append(len(text))
    return {
        _TEXT.format(part): torch.frombuffer(text, dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8),
        _ENDS.format(part): torch.tensor(ends, dtype=torch.int64),
    }


def read_records(part: int, tensors: Mapping[str, Tensor]) -> Sequence[dict[str, Any]]:
    """Return the records of a part's edits, each of which is parsed when it is read.

    Args:
        part: the number of the part.
        tensors: the folder's tensors, by name.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the tensors do not fit each other; or, when a record is read, it isn't a JSON object.
    """
    text, ends = tensors[_TEXT.format(part)], tensors[_ENDS.format(part)]
    if text.dtype != torch.uint8 or not bool((ends.diff() > 0).all()) or (len(ends) and int(ends[-1]) != len(text)):
        raise ValueError(f"the lines of the records of part {part} do not fit their text")

    def record(number: int) -> dict[str, Any]:
        begin = int(ends[number - 1]) if number else 0
        value = parse_json(text[begin : int(ends[number])].numpy().tobytes())
        if not isinstance(value, dict):
            raise ValueError(f"record {number} of part {part} isn't a JSON object")
        return value

    return LazyList(len(ends), record)
