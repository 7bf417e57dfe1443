"""At which tokens of a prompt the hook layers act, and by which scores."""

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
    """What a hook decided by.

    Attributes:
        token: the token's text.
        score: its z-score, or the weighed one with ``scope_score: weighed``; NaN where there is none: in prompts too
            short, and everywhere with ``wohk``.
        acts: whether the edited weights were used here.
    """

    token: str
    score: float
    acts: bool


@dataclass(frozen=True)
class CoachHookLayer:
    """What a hook layer did.

    Attributes:
        layer: path of its projection.
        alpha: the score from which on it acts, give or take rounding; None with ``wohk``: there are no hooks.
        tokens: every token's score.
    """

    layer: str
    alpha: float | None
    tokens: list[ScoreAtToken]

    def lines(self) -> list[str]:
        """Return a table, a line for each token."""
        alpha = "in the weights, everywhere" if self.alpha is None else f"alpha {self.alpha:.4g}"
        tokens = [f"  {token.token!r:16} {token.score:.4g}{'  acts' * token.acts}" for token in self.tokens]
        return [f"CoachHook {self.layer}: {alpha}", *tokens]


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[CoachHookLayer]]]:
    """Watch the hook layers of a model in the pass inside; see :data:`~easyedit_lifelong.methods.base.Explain`."""
    editor = CoachHookEditor.of(model)
    observed: dict[str, tuple[Tensor, Tensor]] = {}

    def layers() -> list[CoachHookLayer]:
        found = []
        for path in [] if editor is None else editor.hooks:
            if path in observed:
                scores, acts = (tensor[0].tolist() for tensor in observed[path])
                alpha = None if editor is None else editor.alphas[path]
            else:  # in the weights: no hook decides
                count = len(explained.texts)
                scores, acts, alpha = [float("nan")] * count, [True] * count, None
            tokens = [ScoreAtToken(*token) for token in zip(explained.texts, scores, acts, strict=True)]
            found.append(CoachHookLayer(path, alpha, tokens))
        return found

    def record(path: str, scores: Tensor, acts: Tensor) -> None:
        observed[path] = scores, acts

    with ExitStack() as stack:
        if editor is not None and not editor.hparams.wohk:
            for path, hook in editor.hooks.items():
                stack.enter_context(hook.recording_decisions(functools.partial(record, path)))
        yield layers
