"""Which key answers a prompt, at which token and layer, and by how much."""

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
from easyedit_lifelong.methods.grace.subject.subject_layer import LateAdaptor


@dataclass(frozen=True)
class KeyAtToken:
    """The key nearest to a token's query.

    Attributes:
        token: the token's text.
        key: which key.
        case_id: the case that it answers for.
        distance: from the query to it, in units of the distance function.
        radius: its deferral radius.
        within: whether it would answer here.
        looked_up: whether the codebook is asked here: at the prompt's last token; with ``query_token: subject_last``
            at every token.
        replaced: whether a value has taken the place of the layer's output here. With ``answer_layer`` the prompt's
            last token gets the value of a key that was found before; then ``key`` is that key.
        gate_distance: from the prompt's last token to the key's gate, in cosine distance; None where no key was
            found or there are no gates.
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
        """Whether the codebook was asked here, and the key answered."""
        return self.looked_up and self.within


@dataclass(frozen=True)
class GraceLayer:
    """What a codebook did.

    Attributes:
        layer: path of the layer that is looked up.
        tokens: the key nearest to every token.
        answered_by: the case whose value was put in, the first of several; None if the prompt was deferred to the
            model.
        query_token: which tokens are looked up.
        gate_eps: how far a gate may be for its edit to answer; None if there are no gates.
    """

    layer: str
    tokens: list[KeyAtToken]
    answered_by: int | str | None
    query_token: str = "prompt_last"
    gate_eps: float | None = None

    def lines(self) -> list[str]:
        """Return a table, a line for each token."""
        outcome = "deferred to the model" if self.answered_by is None else f"answered by case {self.answered_by!r}"
        lines = [f"GRACE {self.layer}: {outcome}"]
        by_subject = self.query_token == "subject_last"
        for token in self.tokens:
            # Where all tokens are looked up, it says nothing that one is.
            marks = "  found" * token.fired if by_subject else "  looked up" * token.looked_up
            if token.gate_distance is not None and self.gate_eps is not None:
                kept_back = token.gate_distance > self.gate_eps
                marks += f"  gate {token.gate_distance:.4g} {'>' if kept_back else '<='} {self.gate_eps:.4g}"
                marks += "  kept back" * kept_back
            marks += "  replaced" * token.replaced
            inside = "<=" if token.within else ">"
            near = f"{token.distance:.4g} {inside} {token.radius:.4g}"
            lines.append(f"  {token.token!r:16} {near} of case {token.case_id!r}{marks}")
        return lines


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[GraceLayer]]]:
    """Watch the codebooks of a model in the pass inside; see :data:`~easyedit_lifelong.methods.base.Explain`."""
    observers = [_Observer(path, editor, explained) for path, editor in GraceEditor.all_of(model).items()]
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer.recording())
        yield lambda: [observer.layer() for observer in observers]


class _Observer:
    """What one editor's layers decide in the pass.

    Args:
        path: of the layer that is looked up.
        editor: the layer's editor.
        explained: the pass.

    Attributes:
        decided: of every token what the codebook would be asked with, whether it was, the key that answered, and
            whether a value was put in: see :data:`~easyedit_lifelong.methods.grace.layer.RecordDecisions`.
        gate: what the gates are compared with, if there are any.
    """

    def __init__(self, path: str, editor: GraceEditor, explained: ExplainedPass) -> None:
        self._path, self._editor, self._explained = path, editor, explained
        self.decided: tuple[Tensor, ...] = ()
        self.gate: Tensor | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Observe the pass inside."""
        adaptor, codebook = self._editor.adaptor, self._editor.codebook
        with ExitStack() as stack:
            stack.enter_context(adaptor.recording_decisions(self._record_decisions))
            if codebook is not None and codebook.gate_eps is not None:
                handle = adaptor.layer.register_forward_pre_hook(self._record_gate, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _record_decisions(self, *decided: Tensor) -> None:
        # What answers may be on another device than what finds.
        self.decided = tuple(tensor[0].to(decided[0].device) for tensor in decided)

    def _record_gate(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.gate = (args[0] if args else kwargs["hidden_states"])[0, self._explained.end]

    def layer(self) -> GraceLayer:
        """Return what was decided."""
        editor = self._editor
        codebook, late = editor.codebook, isinstance(editor.adaptor, LateAdaptor)
        assert codebook is not None
        queries, looked_up, keys, replaced = self.decided
        answers = replaced if late else torch.zeros_like(replaced)
        within = torch.where(looked_up, keys >= 0, codebook.lookup(queries) >= 0)  # where it was asked, as it decided
        gates = None if self.gate is None else codebook.gate_distances(self.gate.to(queries.device))
        cases, radii = editor.edits_of_keys(), codebook.radii.tolist()
        tokens = []
        for column, text in enumerate(self._explained.texts_at(editor.adaptor.layer)):
            match, key = codebook.nearest(queries[column]), int(keys[column])
            query = queries[column : column + 1]
            if key >= 0 and key != match.index:
                match = Match(key, float(codebook.distances(query)[0, key]))
            if answers[column]:  # by a key that another token may have found
                within[column] = codebook.nearness(query)[0, key] <= 1
            gate = float(gates[key]) if gates is not None and key >= 0 else None
            tokens.append(
                KeyAtToken(
                    text,
                    match.index,
                    cases[match.index].case_id,
                    match.distance,
                    radii[match.index],
                    bool(within[column]),
                    bool(looked_up[column]),
                    bool(replaced[column]),
                    gate,
                )
            )
        answered_by = next((token.case_id for token in tokens if (token.replaced if late else token.fired)), None)
        return GraceLayer(self._path, tokens, answered_by, editor.adaptor.query_token, codebook.gate_eps)
