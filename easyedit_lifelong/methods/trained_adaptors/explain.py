"""Explain a pass of an edited model: the gate at the prompt end, and whether the value replaced the output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from easyedit_lifelong.methods.inspection import ExplainedPass
from easyedit_lifelong.methods.trained_adaptors.adaptor import Response
from easyedit_lifelong.methods.trained_adaptors.editor import AdaptorEditor


@dataclass(frozen=True)
class AdaptorDecision:
    """The decision of an adaptor in one pass.

    Attributes:
        method: the name of the method.
        layer: the path of the edited layer.
        token: the text of the prompt's last token, at which the layer's input is read.
        gate: the gate, from 0 to 1. That of Memory network is always 1.
        threshold: the value replaces the layer's output, at all tokens, if the gate is at least this.
        acts: whether it did.
    """

    method: str
    layer: str
    token: str
    gate: float
    threshold: float
    acts: bool

    def lines(self) -> list[str]:
        """Return the outcome, and a line for the token that decided it."""
        outcome = "replaced at all tokens" if self.acts else "not replaced"
        comparison = f"gate {self.gate:.4g} {'>=' if self.acts else '<'} {self.threshold:.4g}"
        return [f"{self.method} {self.layer}: {outcome}", f"  {self.token!r:16} {comparison}"]


@contextlib.contextmanager
def explain(
    editor_class: type[AdaptorEditor], model: Any, explained: ExplainedPass
) -> Iterator[Callable[[], list[AdaptorDecision]]]:
    """Record the response of a pass within the context; see :data:`~easyedit_lifelong.methods.inspection.Explain`.

    Args:
        editor_class: the class of the method's editor.
        model: the model.
        explained: the pass, over one prompt.
    """
    editor = editor_class.of(model)
    if editor is None:
        yield list
        return
    responses: list[tuple[Response, Tensor]] = []

    def decisions() -> list[AdaptorDecision]:
        response, ends = responses[-1]
        gate, threshold = float(response.gate), editor.adaptor.threshold
        token = explained.texts_at(editor.adaptor.layer)[int(ends)]
        return [AdaptorDecision(editor.hparams.ALG_NAME, editor.path, token, gate, threshold, gate >= threshold)]

    with editor.adaptor.recording(lambda *response: responses.append(response)):
        yield decisions
