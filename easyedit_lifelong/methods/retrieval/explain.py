"""Explain a pass of an edited model: the edits that are nearest to the prompt, and whether their facts were put in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.methods.inspection import ExplainedPass
from easyedit_lifelong.methods.retrieval.editor import RetrievalEditor, Retrieved


@dataclass(frozen=True)
class NearEdit:
    """An edit that is near to the prompt.

    Attributes:
        case_id: the case of the edit.
        prompt: the edit's prompt.
        target_new: the edit's target.
        cosine: the cosine between both prompts' standardised embeddings.
    """

    case_id: int | str
    prompt: str
    target_new: str
    cosine: float


@dataclass(frozen=True)
class RetrievalLayer:
    """What the editor put in front of the prompt.

    Attributes:
        method: the name of the method.
        nearest: the nearest edits, the nearest first.
        threshold: the cosine above which a prompt is in scope; None if every prompt is.
        answered_by: the case of the nearest edit if its fact was put in front of the prompt, else None.
    """

    method: str
    nearest: list[NearEdit]
    threshold: float | None
    answered_by: int | str | None

    def lines(self) -> list[str]:
        """Return the outcome, and a line for each edit."""
        outcome = "no edit answered" if self.answered_by is None else f"answered by case {self.answered_by!r}"
        limit = ""
        if self.threshold is not None:
            limit = f" {'<=' if self.answered_by is None else '>'} {self.threshold:.4g}"
        edits = [
            f"  case {edit.case_id!r}  cosine {edit.cosine:.4g}{limit}  {edit.prompt!r} -> {edit.target_new!r}"
            for edit in self.nearest
        ]
        return [f"{self.method}: {outcome}", *edits]


@contextlib.contextmanager
def explain(
    editor_class: type[RetrievalEditor], model: Any, explained: ExplainedPass
) -> Iterator[Callable[[], list[RetrievalLayer]]]:
    """Record the nearest edits of a pass within the context, as the port asks (:data:`.Explain`)."""
    retrieved: list[Sequence[Retrieved]] = []
    with ExitStack() as stack:
        editors = editor_class.all_on(model)
        for editor in editors:
            stack.enter_context(editor.recording(retrieved.append))
        yield lambda: [_explanation(editor, retrieved[-1][0]) for editor in editors]


def _explanation(editor: RetrievalEditor, found: Retrieved) -> RetrievalLayer:
    """Return what the nearest edits of one prompt show."""
    nearest = [
        NearEdit(edit.record.case_id, edit.record.prompt, edit.record.target_new, cosine)
        for edit, cosine in zip(found.edits, found.cosines, strict=True)
    ]
    answered_by = nearest[0].case_id if found.answers else None
    return RetrievalLayer(editor.hparams_class.ALG_NAME, nearest, editor.threshold_of(found.edits[0]), answered_by)
