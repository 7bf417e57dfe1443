"""Explain which key answers a prompt: at which token and layer, and by what distance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.base import ExplainedPass
from easyedit_lifelong.methods.grace.codebook.decisions import Match
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.subject_layer import AnswerLayerAdaptor


@dataclass(frozen=True)
class KeyAtToken:
    """The key nearest to a token's query.

    Attributes:
        token: the token's text.
        key: the key's index.
        case_id: the case that the key answers for.
        distance: the distance between query and key, in units of the distance function.
        radius: the key's deferral radius.
        within: whether the radius contains the query.
        looked_up: whether the token is a query: the prompt's last token; with ``query_token: subject_last`` every
            token.
        replaced: whether a value replaced the layer's output at this token. With ``answer_layer``, the prompt's last
            token gets the value of a key that an earlier token matched; ``key`` is then that key.
        gate_distance: cosine distance between the prompt's last token and the key's gate; None if no key matched or
            the codebook has no gates.
    """

    token: str
    key: int
    case_id: int | str
    distance: float
    radius: float
    within: bool
    looked_up: bool
    replaced: bool
    gate_distance: float | None = None

    @property
    def fired(self) -> bool:
        """Whether the token was looked up and the key matched."""
        return self.looked_up and self.within


@dataclass(frozen=True)
class GraceLayer:
    """What the codebook of one layer decided about a prompt.

    Attributes:
        layer: path of the key layer.
        tokens: the nearest key of each token.
        answered_by: the case whose value replaced the output, the first if several did; None if the prompt was
            deferred to the model.
        query_token: which tokens are looked up; see GRACE's hyperparameters.
        gate_eps: radius of the relation gate; None without gates.
    """

    layer: str
    tokens: list[KeyAtToken]
    answered_by: int | str | None
    query_token: str = "prompt_last"
    gate_eps: float | None = None

    def lines(self) -> list[str]:
        """Return the outcome, and a line for each token."""
        outcome = "deferred to the model" if self.answered_by is None else f"answered by case {self.answered_by!r}"
        lines = [f"GRACE {self.layer}: {outcome}"]
        by_subject = self.query_token == "subject_last"
        for token in self.tokens:
            # With edits by subject, every token is looked up, so mark the matches only.
            marks = "  found" * token.fired if by_subject else "  looked up" * token.looked_up
            if token.gate_distance is not None and self.gate_eps is not None:
                blocked = token.gate_distance > self.gate_eps
                marks += f"  gate {token.gate_distance:.4g} {'>' if blocked else '<='} {self.gate_eps:.4g}"
                marks += "  kept back" * blocked
            marks += "  replaced" * token.replaced
            sign = "<=" if token.within else ">"
            comparison = f"{token.distance:.4g} {sign} {token.radius:.4g}"
            lines.append(f"  {token.token!r:16} {comparison} of case {token.case_id!r}{marks}")
        return lines


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[GraceLayer]]]:
    """Record the decisions of a model's codebooks; see :data:`~easyedit_lifelong.methods.base.Explain`."""
    observers = [_Observer(path, editor, explained) for path, editor in GraceEditor.all_of(model).items()]
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer.recording())
        yield lambda: [observer.explanation() for observer in observers]


class _Observer:
    """Records the decisions of one editor's codebook in a pass.

    Args:
        path: path of the key layer.
        editor: the layer's editor.
        explained: the pass.

    Attributes:
        decisions: for each token, the query, whether it was looked up, the key that matched, and whether a value
            replaced the output: see :data:`~easyedit_lifelong.methods.grace.adaptor.RecordDecisions`.
        gate_query: the activation that is compared with the gates, shape ``(gate_size,)``; None without gates.
    """

    def __init__(self, path: str, editor: GraceEditor, explained: ExplainedPass) -> None:
        self._path, self._editor, self._explained = path, editor, explained
        self.decisions: tuple[Tensor, ...] = ()
        self.gate_query: Tensor | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the pass inside the context."""
        adaptor, codebook = self._editor.adaptor, self._editor.codebook
        with ExitStack() as stack:
            stack.enter_context(adaptor.recording_decisions(self._record_decisions))
            if codebook is not None and codebook.gate_eps is not None:
                handle = adaptor.layer.register_forward_pre_hook(self._record_gate_query, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _record_decisions(self, *decisions: Tensor) -> None:
        # The answer layer may be on another device than the key layer.
        self.decisions = tuple(tensor[0].to(decisions[0].device) for tensor in decisions)

    def _record_gate_query(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.gate_query = (args[0] if args else kwargs["hidden_states"])[0, self._explained.end]

    def explanation(self) -> GraceLayer:
        """Return the recorded decisions."""
        editor = self._editor
        codebook, late = editor.codebook, isinstance(editor.adaptor, AnswerLayerAdaptor)
        assert codebook is not None
        queries, looked_up, keys, replaced = self.decisions
        answered_late = replaced if late else torch.zeros_like(replaced)
        # For tokens that were looked up, use the recorded decision.
        within = torch.where(looked_up, keys >= 0, codebook.lookup(queries) >= 0)
        gate_distances = (
            None if self.gate_query is None else codebook.gate_distances(self.gate_query.to(queries.device))
        )
        cases, radii = editor.record_of_key(), codebook.radii.tolist()
        tokens = []
        for position, text in enumerate(self._explained.texts_at(editor.adaptor.layer)):
            match, key = codebook.nearest(queries[position]), int(keys[position])
            query = queries[position : position + 1]
            if key >= 0 and key != match.index:
                match = Match(key, float(codebook.distances(query)[0, key]))
            if answered_late[position]:  # another token may have matched the key, so compare this one
                within[position] = codebook.relative_distances(query)[0, key] <= 1
            gate_distance = float(gate_distances[key]) if gate_distances is not None and key >= 0 else None
            tokens.append(
                KeyAtToken(
                    text,
                    match.index,
                    cases[match.index].case_id,
                    match.distance,
                    radii[match.index],
                    bool(within[position]),
                    bool(looked_up[position]),
                    bool(replaced[position]),
                    gate_distance,
                )
            )
        answered_by = next((token.case_id for token in tokens if (token.replaced if late else token.fired)), None)
        return GraceLayer(self._path, tokens, answered_by, editor.adaptor.query_token, codebook.gate_eps)
