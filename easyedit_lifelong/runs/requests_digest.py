"""The digest of a run's data, by which a resumed run recognises them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.data.multiple_choice import MultipleChoiceItem
from easyedit_lifelong.data.request import RELATION_SPECIFICITY, EditRequest, Probe

_COMPARED_FIELDS = [item.name for item in dataclasses.fields(EditRequest) if item.compare]
_TURNS = "context_turns"
_LATER_FIELDS: Mapping[str, Any] = {
    RELATION_SPECIFICITY: (),
    "joiner": None,
    _TURNS: (),
    "question_span": None,
    "aliases": (),
}
"""The fields of requests that the first releases did not have, and their defaults."""
_NEVER = object()
"""A value that no field has."""
_ROLES = {"system", "user", "assistant", "tool"}
"""The roles of chats. Relation specificity and earlier turns are both lists of pairs of texts; see
:func:`_is_ambiguous`."""


def requests_digest(
    requests: Sequence[EditRequest],
    retention: Sequence[Probe],
    text: str | None = None,
    capability: Sequence[MultipleChoiceItem] = (),
) -> str:
    """Return a digest of requests and of what else is scored: 16 hexadecimal digits of their SHA-256.

    Without multiple-choice questions, the digest is that of versions that had none. Fields of requests that later
    releases have added are left out where they have the default that they had then (:data:`_LATER_FIELDS`), so that
    runs of earlier releases can be resumed. Different requests have different digests nevertheless: the other fields
    come first and are always there, the fields keep their order, and the values of any two later fields differ in type
    or are named. If a default in :class:`EditRequest` changed, :data:`_LATER_FIELDS` would keep the old one, so that
    the digest would change, too.
    """
    fields = [_compared_values(request) for request in requests]
    facts = [(probe.prompt, probe.answer) for probe in retention]
    data = [fields, facts, text, *([[item.to_dict() for item in capability]] if capability else [])]
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()[:16]


def _compared_values(request: EditRequest) -> list[Any]:
    """Return the values of a request that its digest covers.

    Fields that earlier releases did not have are left out where they have their default: the digests of older runs must
    not change.
    """
    values = {name: getattr(request, name) for name in _COMPARED_FIELDS}
    present = {name: _as_json(value) for name, value in values.items() if value != _LATER_FIELDS.get(name, _NEVER)}
    return [[name, value] if _is_ambiguous(name, value) else value for name, value in present.items()]


def _is_ambiguous(name: str, value: Any) -> bool:
    """Return whether a field's value needs its name, since it could be the value of the other list of pairs, too.

    Pairs whose first texts are roles are turns of a chat, others are probes. Only those that are the opposite, which
    hardly any data have, are named: digests of earlier runs must not change.
    """
    if name not in (RELATION_SPECIFICITY, _TURNS):
        return False
    has_roles = all(first in _ROLES for first, _ in value)
    return has_roles != (name == _TURNS)


def _as_json(value: Any) -> Any:
    """Return the value of a request's field with lists in place of mappings, probes and tuples.

    A list of pairs in place of a mapping keeps the order, which the digest then covers, too.
    """
    if isinstance(value, Mapping):
        return [[name, _as_json(inner)] for name, inner in value.items()]
    if isinstance(value, Probe):
        return [value.prompt, value.answer]
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value
