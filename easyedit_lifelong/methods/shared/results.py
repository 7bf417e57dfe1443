"""What an editor reports of each request."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class EditResult:
    """What one edit did.

    Attributes:
        case_id: the request's.
        steps: optimisation steps taken.
        loss: loss of the last step, in nats per target token.
        seconds: wall time.
        learned: whether the model's next token was the right one at every target token when
            training ended.
        detail: what else the method has to say, by name.
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
