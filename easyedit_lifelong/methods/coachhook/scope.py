"""Where CoachHook's hooks act: z-scores at every token of edited prompts and of their paraphrases.

The authors' study of editing scope (arXiv 2403.05330, section 4): a hook that swaps where an edit's subject
ends, and nowhere else, keeps the edit local; one that still does so in a paraphrase lets it generalise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.metrics import mean
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.methods.shared.subject_positions import subject_position

PROMPT, PARAPHRASE = "prompt", "paraphrase"


@dataclass(frozen=True)
class ScopeRow:
    """The z-scores of one text.

    Attributes:
        case_id: the request's.
        kind: ``prompt`` or ``paraphrase``.
        text: what the model read.
        tokens: its tokens, as text.
        z: the z-score at each token; NaN where there is none.
        subject: index of the subject's last token, None where the subject isn't in the text.
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
        """Return the fields by name, ready for JSON, which knows no NaN."""
        return {**asdict(self), "z": [value if math.isfinite(value) else None for value in self.z]}


@dataclass(frozen=True)
class Scope:
    """What the study found.

    Attributes:
        module: path of the hook layer that was looked at: the last one.
        alpha: its α now.
        rows: prompts and paraphrases, in the requests' order.
        threshold: the z-score from which on it does: α, less what rounding may take.
    """

    module: str
    alpha: float
    rows: tuple[ScopeRow, ...]
    threshold: float

    def acts_at(self, z: float) -> bool:
        """Whether the hook swaps at a token of this z-score."""
        return z >= self.threshold

    def of(self, kind: str) -> list[ScopeRow]:
        """Return the rows of one kind."""
        return [row for row in self.rows if row.kind == kind]

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the figures of each kind of text that there is; :data:`FIGURES` says what they mean."""
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


def study_scope(model: Any, tokenizer: Any, requests: Sequence[EditRequest], fact_token: str = "subject_last") -> Scope:
    """Take the z-scores of requests' prompts and paraphrases at an edited model's last hook layer.

    Args:
        model: a model that carries CoachHook edits.
        tokenizer: its tokenizer.
        requests: what it was edited with, or anything else to look at.
        fact_token: which token of the subject counts.

    Raises:
        EditError: the model carries no CoachHook edits.
    """
    editor = coachhook_editor(model)
    module = list(editor.alphas)[-1]
    texts = [
        (request, kind, text)
        for request in requests
        for kind, several in ((PROMPT, (request.prompt,)), (PARAPHRASE, request.rephrase_prompts))
        for text in several
    ]
    scores = z_scores(model, tokenizer, [text for _, _, text in texts])[module]
    rows = tuple(
        ScopeRow(
            request.case_id, kind, text, _tokens(tokenizer, text), tuple(z.tolist()),
            _position(tokenizer, text, request.subject, fact_token),
        )
        for (request, kind, text), z in zip(texts, scores, strict=True)
    )  # fmt: skip
    threshold = float(editor.hooks[module].threshold(model.dtype))
    return Scope(module, float(editor.alphas[module]), rows, threshold)


def finite(values: Iterable[float]) -> list[float]:
    """Leave out what is no number."""
    return [value for value in values if math.isfinite(value)]


def _tokens(tokenizer: Any, text: str) -> tuple[str, ...]:
    return tuple(tokenizer.decode([token]) for token in tokenizer(text)["input_ids"])


def _position(tokenizer: Any, text: str, subject: str | None, fact_token: str) -> int | None:
    try:
        return subject_position(tokenizer, text, subject, fact_token) if subject else None
    except DataError:
        return None  # a paraphrase may name the subject otherwise
