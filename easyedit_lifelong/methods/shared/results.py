"""The result of one edit, as editors return it for every request, and what a batch contributes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What an edit in a batch has achieved. :class:`EditResult` describes the attributes."""

    steps: int
    loss: float
    learned: bool
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditResult:
    """The result of one edit.

    Attributes:
        case_id: the request's ``case_id``.
        steps: number of optimisation steps.
        loss: loss at the last step, in nats per target token.
        seconds: wall time of the edit.
        learned: whether the model predicted every target token correctly when training ended.
        detail: further values that the method reports, by name.
    """

    case_id: int | str
    steps: int
    loss: float
    seconds: float
    learned: bool
    detail: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON."""
        return asdict(self)
