"""Explain a pass of an edited model: the nearest key at each token, its cosine, and whether its edit answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.methods.inspection import ExplainedPass
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor
from easyedit_lifelong.methods.neuraldb.fact_table import GAMMA, Lookup


@dataclass(frozen=True)
class NearestEdit:
    """The edit whose key is nearest to a token.

    Attributes:
        token: the text of the token.
        case_id: the case of the edit.
        cosine: the cosine between the input of the projection and the key.
        gamma: γ. The edit answers if the cosine is above it.
        answers: whether the residual of the edit was added at this token.
    """

    token: str
    case_id: int | str
    cosine: float
    gamma: float
    answers: bool

    @property
    def margin(self) -> float:
        """How far the cosine is above γ; negative if the edit does not answer."""
        return self.cosine - self.gamma


@dataclass(frozen=True)
class NeuralDBLayer:
    """What the gate did in one pass.

    Attributes:
        layer: the path of the projection.
        tokens: the nearest edit of each token.
        answered_by: the case that answered with the largest margin; None if none did.
    """

    layer: str
    tokens: list[NearestEdit]
    answered_by: int | str | None

    def lines(self) -> list[str]:
        """Return the outcome, and a line for each token."""
        outcome = "no edit answered" if self.answered_by is None else f"answered by case {self.answered_by!r}"
        tokens = [
            f"  {token.token!r:16} cosine {token.cosine:.4g} {'>' if token.answers else '<='} {token.gamma:.4g} "
            f"of case {token.case_id!r}{'  answers' if token.answers else ''}"
            for token in self.tokens
        ]
        return [f"NeuralDB {self.layer}: {outcome}", *tokens]


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[NeuralDBLayer]]]:
    """Record the lookups of a pass within the context; see :data:`~easyedit_lifelong.methods.inspection.Explain`."""
    lookups: list[Lookup] = []
    with ExitStack() as stack:
        editors = NeuralDBEditor.all_on(model)
        for editor in editors:
            stack.enter_context(editor.recording_lookups(lookups.append))
        yield lambda: [_explanation(editor, lookups[-1], explained) for editor in editors]


def _explanation(editor: NeuralDBEditor, lookup: Lookup, explained: ExplainedPass) -> NeuralDBLayer:
    """Return what the lookups of a pass over one prompt show."""
    columns = zip(
        explained.texts_at(editor.projection),
        lookup.row.flatten().tolist(),
        lookup.cosine.flatten().tolist(),
        lookup.answers.flatten().tolist(),
        strict=True,
    )
    tokens = []
    for text, row, cosine, answers in columns:
        edit = editor.table.edits[row]
        tokens.append(NearestEdit(text, edit.record.case_id, cosine, edit.data[GAMMA], answers))
    answering = [token for token in tokens if token.answers]
    answered_by = max(answering, key=lambda token: token.margin).case_id if answering else None
    return NeuralDBLayer(editor.path, tokens, answered_by)
