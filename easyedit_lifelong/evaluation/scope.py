"""Results of a scope study: where an edited layer acts in edited prompts and in their paraphrases.

The study of editing scope of CoachHook (arXiv 2403.05330, section 4): a layer that acts where an edit's subject ends,
and nowhere else, keeps the edit local; one that also acts there in a paraphrase lets it generalise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from easyedit_lifelong.evaluation.metrics import mean

PROMPT, PARAPHRASE = "prompt", "paraphrase"

FIGURES = {
    "n": "texts looked at",
    "n_subject": "of which the subject stands in",
    "highest": "share of those whose highest z-score is at the subject's last token",
    "reaches_alpha": "share of those where it is alpha or more, so that the hook acts there",
    "acts": "share of texts in which the hook acts anywhere",
    "elsewhere": "share of texts in which it acts at another token",
    "z_subject": "mean z-score at the subject's last token",
    "z_other": "mean z-score at all other tokens",
}
"""The figures of :meth:`Scope.summary`, by name, and what each means."""


@dataclass(frozen=True)
class ScopeRow:
    """The z-scores of one text.

    Attributes:
        case_id: the request's.
        kind: ``prompt`` or ``paraphrase``.
        text: what the model read.
        tokens: its tokens, as text.
        z: the z-score at each token; NaN where there is none.
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
        """Whether no token has a higher z-score than the subject's last one."""
        return self.subject is not None and self.z[self.subject] >= max(finite(self.z), default=math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, ready for JSON, which has no NaN."""
        return {**asdict(self), "z": [value if math.isfinite(value) else None for value in self.z]}


@dataclass(frozen=True)
class Scope:
    """The result of a study.

    Attributes:
        module: path of the layer that was studied: the last edited one.
        alpha: its α after the last edit.
        rows: prompts and paraphrases, in the requests' order.
        threshold: the z-score from which on the layer acts: α, less an allowance for rounding.
    """

    module: str
    alpha: float
    rows: tuple[ScopeRow, ...]
    threshold: float

    def acts_at(self, z: float) -> bool:
        """Whether the layer acts at a token of this z-score."""
        return z >= self.threshold

    def of(self, kind: str) -> list[ScopeRow]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the figures of :data:`FIGURES` for each kind of text that there is."""
        return {kind: self._figures(rows) for kind in (PROMPT, PARAPHRASE) if (rows := self.of(kind))}

    def _figures(self, rows: Sequence[ScopeRow]) -> dict[str, float]:
        found = [(row, row.subject) for row in rows if row.subject is not None]
        figures = {
            "highest": mean(row.highest for row, _ in found),
            "reaches_alpha": mean(self.acts_at(row.z[subject]) for row, subject in found),
            "acts": mean(any(map(self.acts_at, row.z)) for row in rows),
            "elsewhere": mean(
                any(self.acts_at(z) for index, z in enumerate(row.z) if index != row.subject) for row in rows
            ),
            "z_subject": mean(finite(row.z[subject] for row, subject in found)),
            "z_other": mean(finite(z for row in rows for index, z in enumerate(row.z) if index != row.subject)),
        }
        counts = {"n": float(len(rows)), "n_subject": float(len(found))}
        return counts | {name: value for name, value in figures.items() if value is not None}


def finite(values: Iterable[float]) -> list[float]:
    """Return the values that are finite numbers."""
    return [value for value in values if math.isfinite(value)]
