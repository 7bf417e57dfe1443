"""One edit that is independent of the others, and the check that it can be stored beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.shared.records import EditRecord


@dataclass(frozen=True, eq=False)
class SeparateEdit:
    """One edit.

    Attributes:
        record: the record of the edit.
        data: the values that the method needs to apply the edit, by name; JSON-serializable.
        tensors: the tensors that the method needs to apply the edit, by name. All edits of a method have tensors of the
            same names and shapes. A file holds those of one name in the widest of their dtypes.
    """

    record: EditRecord
    data: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def check_storable(edits: Sequence[SeparateEdit]) -> None:
    """Check that edits have JSON-serializable data, and finite tensors, so that they can be saved later.

    Raises:
        EditError: a number is not finite.
        TypeError: the data of an edit can't be saved as JSON, or a tensor is none.
    """
    for edit in edits:
        for name, value in edit.data.items():
            _check_value(value, f"{_case(edit)}: data[{name!r}]")
        for name, tensor in edit.tensors.items():
            if not isinstance(tensor, Tensor):
                kind = type(tensor).__name__
                raise TypeError(f"{_case(edit)}: tensors[{name!r}] is of type {kind}, which is not a tensor")
            if not bool(torch.isfinite(tensor).all()):
                raise EditError(f"{_case(edit)}: tensors[{name!r}] holds NaN or an infinite number")


def check_same_tensors(edits: Sequence[SeparateEdit], other: SeparateEdit) -> None:
    """Check that edits have tensors of the same names and shapes as another edit, so that one file can hold all.

    Raises:
        ValueError: they have not.
    """
    others = f"the edit of case {other.record.case_id!r}"
    for edit in edits:
        if set(edit.tensors) != set(other.tensors):
            raise ValueError(f"{_case(edit)}: has the tensors {_listed(edit)}; {others} has {_listed(other)}")
        for name, tensor in edit.tensors.items():
            shape, expected = tuple(tensor.shape), tuple(other.tensors[name].shape)
            if shape != expected:
                raise ValueError(
                    f"{_case(edit)}: tensors[{name!r}] has the shape {shape}; that of {others} has {expected}"
                )


def _case(edit: SeparateEdit) -> str:
    """Return the name of an edit in messages."""
    return f"case {edit.record.case_id!r}, its SeparateEdit"


def _check_value(value: Any, name: str) -> None:
    """Check that a value of an edit's data can be saved as JSON.

    Raises:
        EditError: a number is not finite, which JSON can't hold.
        TypeError: it can't.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        if _holds_infinite(value):
            raise EditError(f"{name} holds NaN or an infinite number") from error
        raise TypeError(f"{name} can't be saved as JSON: {error}") from error


def _holds_infinite(value: Any) -> bool:
    """Return whether a value, or one in it, is a number that is not finite."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_holds_infinite, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_infinite, value))


def _listed(edit: SeparateEdit) -> str:
    """Return the names of an edit's tensors."""
    return ", ".join(sorted(edit.tensors)) or "none"
