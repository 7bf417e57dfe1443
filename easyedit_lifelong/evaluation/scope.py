"""The results of a scope study: at which tokens of edited prompts and their paraphrases an edited layer acts.

This is the study of editing scope in CoachHook (arXiv 2403.05330, section 4). An edit is local if the layer acts at the
last token of the subject and at no other token. It generalises if the layer also acts there in a paraphrase.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from easyedit_lifelong.evaluation.metrics import mean

PROMPT, PARAPHRASE = "prompt", "paraphrase"

FIGURE_MEANINGS = {
    "n": "number of texts",
    "n_subject": "number of texts that contain the subject",
    "highest": "of these, the share whose highest z-score is at the subject's last token",
    "reaches_alpha": "of these, the share whose z-score there reaches alpha, so that the hook acts",
    "acts": "share of texts in which the hook acts at any token",
    "elsewhere": "share of texts in which the hook acts at another token",
    "z_subject": "mean z-score at the subject's last token",
    "z_other": "mean z-score at all other tokens",
}
"""The figures of :meth:`ScopeStudy.summary`: the meaning of each, by name."""


@dataclass(frozen=True)
class ScopeRow:
    """The z-scores of one text.

    Attributes:
        case_id: the case_id of the request.
        kind: ``prompt`` or ``paraphrase``.
        text: the text that the model read.
        tokens: the text's tokens, as strings.
        z: the z-score at each token; NaN at a token that has none.
        subject: index of the subject's last token; None if the text does not contain the subject.
    """

    case_id: int | str
    kind: str
    text: str
    tokens: tuple[str, ...]
    z: tuple[float, ...]
    subject: int | None

    @property
    def highest(self) -> bool:
        """Whether no token has a higher z-score than the subject's last token."""
        return self.subject is not None and self.z[self.subject] >= max(finite(self.z), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON: NaN becomes None."""
        return {**asdict(self), "z": [value if math.isfinite(value) else None for value in self.z]}


@dataclass(frozen=True)
class ScopeStudy:
    """The result of a scope study.

    Attributes:
        module: path of the layer that was studied: the last of the edited layers.
        alpha: α of that layer after the last edit.
        rows: the z-scores of prompts and paraphrases, in the requests' order.
        threshold: the lowest z-score at which the layer acts: α minus a tolerance for rounding.
    """

    module: str
    alpha: float
    rows: tuple[ScopeRow, ...]
    threshold: float

    def acts_at(self, z: float) -> bool:
        """Return whether the layer acts at a token with this z-score."""
        return z >= self.threshold

    def of(self, kind: str) -> list[ScopeRow]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the figures of :data:`FIGURE_MEANINGS` for each kind of text that has rows."""
        return {kind: self._figures(rows) for kind in (PROMPT, PARAPHRASE) if (rows := self.of(kind))}

    def _figures(self, rows: Sequence[ScopeRow]) -> dict[str, float]:
        """Return the figures of :data:`FIGURE_MEANINGS` for these rows, without those that have no values."""
        with_subject = [(row, row.subject) for row in rows if row.subject is not None]
        figures = {
            "highest": mean(row.highest for row, _ in with_subject),
            "reaches_alpha": mean(self.acts_at(row.z[subject]) for row, subject in with_subject),
            "acts": mean(any(map(self.acts_at, row.z)) for row in rows),
            "elsewhere": mean(
                any(self.acts_at(z) for index, z in enumerate(row.z) if index != row.subject) for row in rows
            ),
            "z_subject": mean(finite(row.z[subject] for row, subject in with_subject)),
            "z_other": mean(finite(z for row in rows for index, z in enumerate(row.z) if index != row.subject)),
        }
        counts = {"n": float(len(rows)), "n_subject": float(len(with_subject))}
        return counts | {name: value for name, value in figures.items() if value is not None}


def finite(values: Iterable[float]) -> list[float]:
    """Return the values that are finite numbers."""
    return [value for value in values if math.isfinite(value)]
