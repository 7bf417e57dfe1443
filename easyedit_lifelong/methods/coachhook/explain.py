"""Explain a pass of an edited model: the tokens where hook layers acted, and the scores that decided it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor
from easyedit_lifelong.methods.coachhook.subject_scope import Decision
from easyedit_lifelong.methods.inspection import ExplainedPass


@dataclass(frozen=True)
class ScoreAtToken:
    """The decision of a hook layer at one token.

    Attributes:
        token: the text of the token.
        score: its score, which was compared with α; NaN if it has none, as in prompts that are too short and with
            ``wohk``.
        acts: whether W + ΔW was used for this token.
        case_ids: with ``scope_score: codebook``, the cases of the edits whose updates acted at this token.
    """

    token: str
    score: float
    acts: bool
    case_ids: tuple[int | str, ...] = ()

    @property
    def line(self) -> str:
        """The decision as a line of text."""
        of_cases = f" by case {', '.join(map(repr, self.case_ids))}" if self.case_ids else ""
        return f"  {self.token!r:16} {self.score:.4g}{'  acts' if self.acts else ''}{of_cases}"


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

    @property
    def answered_by(self) -> tuple[int | str, ...]:
        """The cases whose updates acted at any token, in the order of the tokens; empty if the layer can't tell."""
        return tuple(dict.fromkeys(case_id for token in self.tokens for case_id in token.case_ids))

    def lines(self) -> list[str]:
        """Return the layer as a heading, and a line for each token."""
        alpha = "in the weights, everywhere" if self.alpha is None else f"alpha {self.alpha:.4g}"
        return [f"CoachHook {self.layer}: {alpha}", *(token.line for token in self.tokens)]


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[CoachHookLayer]]]:
    """Record the decisions of a pass within the context; see :data:`~easyedit_lifelong.methods.inspection.Explain`."""
    editor = CoachHookEditor.of(model)
    if editor is None:
        yield list
        return
    texts = explained.texts
    observed: dict[str, tuple[Tensor, Tensor]] = {}
    cases = _CasesAtTokens(editor.state.case_ids, len(texts))

    def record(path: str, scores: Tensor, in_scope: Tensor) -> None:
        observed[path] = scores, in_scope

    def explain_layer(path: str) -> CoachHookLayer:
        if path not in observed:  # wohk: the edits are in the weights
            return CoachHookLayer(path, None, [ScoreAtToken(text, float("nan"), True) for text in texts])
        scores, in_scope = observed[path]
        decisions = zip(texts, scores[0].tolist(), in_scope[0].tolist(), cases.by_token, strict=True)
        tokens = [ScoreAtToken(*decision) for decision in decisions]
        return CoachHookLayer(path, editor.alphas[path], tokens)

    with ExitStack() as stack:
        if not editor.hparams.wohk:
            for path, hook in editor.hooks.items():
                stack.enter_context(hook.recording_decisions(functools.partial(record, path)))
        if editor.scope is not None:
            stack.enter_context(editor.scope.recording_decisions(cases.record))
        yield lambda: [explain_layer(path) for path in editor.hooks]


class _CasesAtTokens:
    """Collects the cases whose edits act at each token of a pass over one prompt.

    Args:
        case_ids: the cases of all edits, in order.
        count: the number of tokens.

    Attributes:
        by_token: the cases at each token.
    """

    def __init__(self, case_ids: Sequence[int | str], count: int) -> None:
        self._case_ids = case_ids
        self.by_token: list[tuple[int | str, ...]] = [()] * count

    def record(self, decision: Decision) -> None:
        """Store the cases of a decision."""
        for token, matches in zip(decision.in_scope[0].nonzero().flatten().tolist(), decision.matches, strict=True):
            self.by_token[token] = tuple(self._case_ids[edit] for edit in matches.nonzero().flatten().tolist())
