"""Records of the edits that a model has: which request each edit was made for, and when."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easyedit_lifelong.clock import now
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError, RunError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

_OPTIONAL = ("subject", "ground_truth")
"""Fields of a record that may be None."""

_NOT_ALWAYS_SAVED = ("joiner", "question", "aliases")
"""Fields that are saved only if they have a value: records of earlier releases don't have them."""

_MAX_SHOWN = 16
"""An input tensor with more numbers than this is described by its shape and norm."""


@dataclass(frozen=True)
class EditRecord:
    """The record of one edit.

    Attributes:
        case_id: the request's ``case_id``.
        prompt: the request's prompt.
        target_new: the request's target.
        subject: the request's subject, if it has one.
        ground_truth: the answer that was correct before the edit, if the request has one.
        time: when the edit was made: ISO 8601, UTC.
        joiner: what stands between prompt and target, if the request or the hyperparameters set it.
        question: the user's words in the prompt, if it is in chat form.
        aliases: other names of the subject.
    """

    case_id: int | str
    prompt: str
    target_new: str
    subject: str | None
    ground_truth: str | None
    time: str
    joiner: str | None = None
    question: str | None = None
    aliases: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: EditRequest) -> EditRecord:
        """Return the record of an edit that was made just now."""
        return cls(
            request.case_id,
            request.prompt,
            request.target_new,
            request.subject,
            request.ground_truth,
            now(),
            request.joiner,
            None if request.question_span is None else request.question,
            request.aliases,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["aliases"] = list(self.aliases) or None
        return {name: value for name, value in values.items() if value is not None or name not in _NOT_ALWAYS_SAVED}

    @classmethod
    def from_dict(cls, entry: Any, where: object) -> EditRecord:
        """Build a record from the dictionary that :meth:`to_dict` returned.

        Args:
            entry: the fields by name.
            where: the file that they were read from, for messages.

        Raises:
            RunError: a field is missing, unknown or of the wrong type.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        required = [field.name for field in dataclasses.fields(cls) if field.name not in _NOT_ALWAYS_SAVED]
        if not isinstance(entry, Mapping) or not set(required) <= set(entry) <= names:
            raise RunError(f"{where}: an edit must have the fields {', '.join(required)}")
        for name, value in entry.items():
            is_text = isinstance(value, str)
            is_number = name == "case_id" and type(value) is int
            is_absent = name in _OPTIONAL and value is None
            is_texts = name == "aliases" and isinstance(value, list) and all(isinstance(text, str) for text in value)
            if not (is_texts if name == "aliases" else is_text or is_number or is_absent):
                raise RunError(f"{where}: the edit of case {entry['case_id']!r}: {name} can't be {value!r}")
        return cls(**{**entry, "aliases": tuple(entry.get("aliases", ()))})


def describe_row(row: Tensor) -> str:
    """Return the text by which a record describes an input tensor: its numbers, or shape and norm if it is large."""
    if row.numel() <= _MAX_SHOWN:
        return str(row.tolist())
    return f"tensor of shape {tuple(row.shape)}, norm {float(row.float().norm()):.6g}"


def indices_of_case(records: Sequence[EditRecord], case_id: int | str, prompt: str | None = None) -> list[int]:
    """Return the indices of a case's edits.

    Args:
        records: the records of all edits.
        case_id: the case.
        prompt: return only the edits of this prompt; None for all prompts.

    Raises:
        EditError: the case has no such edit; or ``prompt`` is None and the case's edits have different prompts, so that
            they may be different facts with the same ``case_id``.
    """
    matches = [n for n, record in enumerate(records) if record.case_id == case_id]
    if not matches:
        hint = did_you_mean(str(case_id), [str(record.case_id) for record in records])
        raise EditError(f"there is no edit of case {case_id!r}.{hint}")
    prompts = list(dict.fromkeys(records[n].prompt for n in matches))
    if prompt is None and len(prompts) > 1:
        raise EditError(
            f"{len(matches)} edits are called case {case_id!r}; say which by its prompt: "
            f"{', '.join(repr(text) for text in prompts[:5])}{', …' if len(prompts) > 5 else ''}"
        )
    if prompt is not None and prompt not in prompts:
        raise EditError(f"no edit of case {case_id!r} has the prompt {prompt!r}.{did_you_mean(prompt, prompts)}")
    return [n for n in matches if prompt in (None, records[n].prompt)]


def remove_records(records: MutableSequence[EditRecord], numbers: Collection[int]) -> None:
    """Remove the records of these numbers, counted from 0. Records before the first of them are not read."""
    begin = min(numbers, default=len(records))
    kept = [record for number, record in enumerate(records[begin:], begin) if number not in numbers]
    del records[begin:]
    records.extend(kept)
