"""What stays with an edit that a model carries: which request it was, and when it was made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, RunError, did_you_mean

_OPTIONAL = ("subject", "ground_truth")
_FEW = 16


@dataclass(frozen=True)
class EditRecord:
    """An edit that a model carries.

    Attributes:
        case_id: the request's.
        prompt: its prompt.
        target_new: its target.
        subject: its subject, if it names one.
        ground_truth: the answer that was true before, if it names one.
        time: when the edit was made, ISO 8601, UTC.
    """

    case_id: int | str
    prompt: str
    target_new: str
    subject: str | None
    ground_truth: str | None
    time: str

    @classmethod
    def of(cls, request: EditRequest) -> EditRecord:
        """Return the record of a request that has just been edited."""
        return cls(request.case_id, request.prompt, request.target_new, request.subject, request.ground_truth, now())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, entry: Any, where: object) -> EditRecord:
        """Read what :meth:`to_dict` gave.

        Args:
            entry: the fields by name.
            where: the file that they are from, for messages.

        Raises:
            RunError: a field is missing, or of another kind.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        if not isinstance(entry, Mapping) or set(entry) != set(names):
            raise RunError(f"{where}: an edit must have the fields {', '.join(names)}")
        for name in names:
            value = entry[name]
            fits = isinstance(value, str) or (name == "case_id" and type(value) is int)
            if not fits and not (name in _OPTIONAL and value is None):
                raise RunError(f"{where}: the edit of case {entry['case_id']!r}: {name} can't be {value!r}")
        return cls(**entry)


def describe_row(row: Tensor) -> str:
    """Return an input that isn't text, for a record: its numbers if they are few, else its shape and its norm."""
    if row.numel() <= _FEW:
        return str(row.tolist())
    return f"tensor of shape {tuple(row.shape)}, norm {float(row.float().norm()):.6g}"


def numbers_of_case(records: Sequence[EditRecord], case_id: int | str, prompt: str | None = None) -> list[int]:
    """Return the numbers of a case's edits, counted from 0.

    Args:
        records: of all edits.
        case_id: which case.
        prompt: only its edit of this prompt.

    Raises:
        EditError: there is none; or, without a prompt, there are several that aren't of one prompt: then they
            may well be different facts that were given the same id.
    """
    found = [n for n, record in enumerate(records) if record.case_id == case_id]
    if not found:
        hint = did_you_mean(str(case_id), [str(record.case_id) for record in records])
        raise EditError(f"there is no edit of case {case_id!r}.{hint}")
    prompts = list(dict.fromkeys(records[n].prompt for n in found))
    if prompt is None and len(prompts) > 1:
        raise EditError(
            f"{len(found)} edits are called case {case_id!r}; say which by its prompt: "
            f"{', '.join(repr(text) for text in prompts[:5])}{', …' if len(prompts) > 5 else ''}"
        )
    if prompt is not None and prompt not in prompts:
        raise EditError(f"no edit of case {case_id!r} has the prompt {prompt!r}.{did_you_mean(prompt, prompts)}")
    return [n for n in found if prompt in (None, records[n].prompt)]
