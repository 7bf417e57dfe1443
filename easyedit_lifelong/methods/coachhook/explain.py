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
        score: its score, which was compared with α; NaN if it has none: in prompts that are too short, and with
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
        tokens = [f"  {token.token!r:16} {token.score:.4g}{'  acts' * token.acts}" for token in self.tokens]
        return [f"CoachHook {self.layer}: {alpha}", *tokens]


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[CoachHookLayer]]]:
    """Record the decisions of a pass within the context; see :data:`~easyedit_lifelong.methods.base.Explain`."""
    editor = CoachHookEditor.of(model)
    observed: dict[str, tuple[Tensor, Tensor]] = {}

    def explanations() -> list[CoachHookLayer]:
        layers = []
        for path in [] if editor is None else editor.hooks:
            if path in observed:
                scores, acts = (tensor[0].tolist() for tensor in observed[path])
                alpha = None if editor is None else editor.alphas[path]
            else:  # wohk: the edits are in the weights
                count = len(explained.texts)
                scores, acts, alpha = [float("nan")] * count, [True] * count, None
            tokens = [ScoreAtToken(*token) for token in zip(explained.texts, scores, acts, strict=True)]
            layers.append(CoachHookLayer(path, alpha, tokens))
        return layers

    def record(path: str, scores: Tensor, acts: Tensor) -> None:
        observed[path] = scores, acts

    with ExitStack() as stack:
        if editor is not None and not editor.hparams.wohk:
            for path, hook in editor.hooks.items():
                stack.enter_context(hook.recording_decisions(functools.partial(record, path)))
        yield explanations
