"""Explain a pass of an edited model: the tokens where hook layers acted, and the scores that decided it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from easyedit_lifelong.methods.base import ExplainedPass
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor


@dataclass(frozen=True)
class ScoreAtToken:
    """The decision of a hook layer at one token.

    Attributes:
        token: the text of the token.
        score: its score, which was compared with α; NaN if it has none, as in prompts that are too short and with
            ``wohk``.
        acts: whether W + ΔW was used for this token.
    """

    token: str
    score: float
    acts: bool


@dataclass(frozen=True)
class CoachHookLayer:
    """The decisions of a hook layer in one pass.

    Attributes:
        layer: path of its projection.
        alpha: the layer acts on tokens whose score is at least this, up to rounding; None with ``wohk``, which
            has no hook layers.
        tokens: the decision at each token.
    """

    layer: str
    alpha: float | None
    tokens: list[ScoreAtToken]

    def lines(self) -> list[str]:
        """Return the layer as a heading, and a line for each token."""
        alpha = "in the weights, everywhere" if self.alpha is None else f"alpha {self.alpha:.4g}"
        tokens = [f"  {token.token!r:16} {token.score:.4g}{'  acts' if token.acts else ''}" for token in self.tokens]
        return [f"CoachHook {self.layer}: {alpha}", *tokens]


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[CoachHookLayer]]]:
    """Record the decisions of a pass within the context; see :data:`~easyedit_lifelong.methods.base.Explain`."""
    editor = CoachHookEditor.of(model)
    if editor is None:
        yield list
        return
    texts = explained.texts
    observed: dict[str, tuple[Tensor, Tensor]] = {}

    def record(path: str, scores: Tensor, in_scope: Tensor) -> None:
        observed[path] = scores, in_scope

    def explain_layer(path: str) -> CoachHookLayer:
        if path not in observed:  # wohk: the edits are in the weights
            return CoachHookLayer(path, None, [ScoreAtToken(text, float("nan"), True) for text in texts])
        scores, in_scope = observed[path]
        decisions = zip(texts, scores[0].tolist(), in_scope[0].tolist(), strict=True)
        tokens = [ScoreAtToken(text, score, acts) for text, score, acts in decisions]
        return CoachHookLayer(path, editor.alphas[path], tokens)

    with ExitStack() as stack:
        if not editor.hparams.wohk:
            for path, hook in editor.hooks.items():
                stack.enter_context(hook.recording_decisions(functools.partial(record, path)))
        yield lambda: [explain_layer(path) for path in editor.hooks]
