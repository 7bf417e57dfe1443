"""Explain which key answers a prompt: at which token and layer, and by what distance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.codebook.decisions import Match
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.subject_layer import AnswerLayerAdaptor
from easyedit_lifelong.methods.inspection import ExplainedPass
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.models.row_axis import with_row_axis


@dataclass(frozen=True)
class KeyAtToken:
    """The key nearest to a token's query.

    Attributes:
        token: the token's text.
        key: the key's index.
        case_id: the case that the key answers for.
        distance: the distance between query and key, in units of the distance function.
        radius: the key's deferral radius; with ``named_eps``, the wider one if the token matched in that.
        within: whether the radius contains the query.
        looked_up: whether the token is a query token: by default, the prompt's last token; with ``query_token:
            subject_last``, every token.
        replaced: whether a value replaced the layer's output at this token. With ``answer_layer``, the prompt's last
            token gets the value of a key that an earlier token matched; ``key`` is then that key.
        gate_distance: cosine distance between the prompt's last token and the key's gate; None if no key matched or
            the codebook has no gates.
        continues: whether the token matched a further key of an edit. Key, distance and radius are then those of the
            further key, and the distance is a cosine distance.
        words_differ: whether the key did not match, although its radius contains the query, because the text's words do
            not name its subject.
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
    continues: bool = False
    words_differ: bool = False

    @property
    def fired(self) -> bool:
        """Whether the token was looked up and the key matched."""
        return self.looked_up and self.within and not self.words_differ


@dataclass(frozen=True)
class GraceLayer:
    """What one layer's codebook did with a prompt.

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
            marks = ["found"] * token.fired if by_subject else ["looked up"] * token.looked_up
            if token.continues:
                marks = ["further key"]
            if token.gate_distance is not None and self.gate_eps is not None:
                blocked = token.gate_distance > self.gate_eps
                marks.append(f"gate {token.gate_distance:.4g} {'>' if blocked else '<='} {self.gate_eps:.4g}")
                marks += ["kept back"] * blocked
            marks += ["other words"] * token.words_differ
            marks += ["replaced"] * token.replaced
            comparison = f"{token.distance:.4g} {'<=' if token.within else '>'} {token.radius:.4g}"
            lines.append("  ".join([f"  {token.token!r:16} {comparison} of case {token.case_id!r}", *marks]))
        return lines


@contextlib.contextmanager
def explain(model: Any, explained: ExplainedPass) -> Iterator[Callable[[], list[GraceLayer]]]:
    """Record the lookups in a model's codebooks; see :data:`~easyedit_lifelong.methods.inspection.Explain`."""
    observers = [_Observer(path, editor, explained) for path, editor in GraceEditor.all_of(model).items()]
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer.recording())
        yield lambda: [observer.explanation() for observer in observers]


class _Lookups(NamedTuple):
    """The lookups of the prompt's tokens; see :data:`~easyedit_lifelong.methods.grace.adaptor.RecordLookups`."""

    queries: Tensor
    looked_up: Tensor
    keys: Tensor
    replaced: Tensor


class _Observer:
    """Records the lookups in one editor's codebook in a pass.

    Args:
        path: path of the key layer.
        editor: the layer's editor.
        explained: the pass.
    """

    def __init__(self, path: str, editor: GraceEditor, explained: ExplainedPass) -> None:
        self._path, self._editor, self._explained = path, editor, explained
        self._lookups: _Lookups | None = None
        self._further: tuple[Tensor, Tensor] | None = None
        """The layer's input at every token, ``(tokens, width)``, and the further key that it matches, ``(tokens,)``."""
        self._gate_query: Tensor | None = None
        """The activation that is compared with the gates, shape ``(gate_size,)``; None without gates."""

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the pass inside the context."""
        adaptor, codebook = self._editor.adaptor, self._editor.codebook
        with ExitStack() as stack:
            stack.enter_context(adaptor.recording_lookups(self._record_lookups, self._record_further))
            if codebook is not None and codebook.gate_eps is not None:
                handle = adaptor.layer.register_forward_pre_hook(self._record_gate_query, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def _record_lookups(self, *tensors: Tensor) -> None:
        # The answer layer may be on another device than the key layer.
        self._lookups = _Lookups(*(tensor[0].to(tensors[0].device) for tensor in tensors))

    def _record_further(self, inputs: Tensor, keys: Tensor) -> None:
        self._further = inputs[0], keys[0]

    def _record_gate_query(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = args[0] if args else kwargs["hidden_states"]
        self._gate_query = with_row_axis(inputs, rows=1)[0, self._explained.end]

    def explanation(self) -> GraceLayer:
        """Return the recorded lookups."""
        editor, codebook, lookups = self._editor, self._editor.codebook, self._lookups
        assert codebook is not None and lookups is not None
        would_match = codebook.lookup(lookups.queries) >= 0
        within_radius = torch.where(lookups.looked_up, lookups.keys >= 0, would_match).tolist()
        gate_distances = None
        if self._gate_query is not None:
            gate_distances = codebook.gate_distances(self._gate_query.to(lookups.queries.device).unsqueeze(0))[0]
        records, further_records = editor.record_of_key(), editor.record_of_further_key()
        tokens = []
        for position, text in enumerate(self._explained.texts_at(editor.adaptor.layer)):
            replaced = bool(lookups.replaced[position])
            token = None if replaced else self._further_key_at(position, text, further_records)
            if token is None:
                token = self._key_at(position, text, within_radius[position], records, gate_distances)
            tokens.append(token)
        answering = (token for token in tokens if (token.replaced if self._at_answer_layer else token.fired))
        answered_by = next((token.case_id for token in answering), None)
        return GraceLayer(self._path, tokens, answered_by, editor.adaptor.query_token, codebook.gate_eps)

    @property
    def _at_answer_layer(self) -> bool:
        """Whether values replace the output of another layer than the key layer."""
        return isinstance(self._editor.adaptor, AnswerLayerAdaptor)

    def _key_at(
        self,
        position: int,
        text: str,
        within: bool,
        records: Mapping[int, EditRecord],
        gate_distances: Tensor | None,
    ) -> KeyAtToken:
        """Return the key that a token matched, or else the key nearest to it.

        Args:
            position: the token's position.
            text: its text.
            within: whether it matched a key; if it was not looked up, whether it would match one.
            records: the record of each key's edit.
            gate_distances: the distance of each key's gate from the prompt's, shape ``(n,)``; None without gates.
        """
        codebook, lookups, named_eps = self._editor.codebook, self._lookups, self._editor.hparams.named_eps
        assert codebook is not None and lookups is not None
        query, key = lookups.queries[position : position + 1], int(lookups.keys[position])
        looked_up, replaced = bool(lookups.looked_up[position]), bool(lookups.replaced[position])
        shown = codebook.nearest(query[0])
        if key >= 0 and key != shown.index:
            shown = Match(key, float(codebook.distances(query)[0, key]))
        if self._at_answer_layer and replaced:
            # An earlier token matched the key, so this token may be outside its radius.
            within = bool(codebook.relative_distances(query, named_eps or 0.0)[0, key] <= 1)
        radius, words_differ = float(codebook.radii[shown.index]), False
        if named_eps is not None and key >= 0 and within and shown.distance > radius:
            radius = max(radius, named_eps)
        if named_eps is not None and key < 0 and looked_up and shown.distance <= radius:
            within = words_differ = True
        return KeyAtToken(
            token=text,
            key=shown.index,
            case_id=records[shown.index].case_id,
            distance=shown.distance,
            radius=radius,
            within=within,
            looked_up=looked_up,
            replaced=replaced,
            gate_distance=float(gate_distances[key]) if gate_distances is not None and key >= 0 else None,
            words_differ=words_differ,
        )

    def _further_key_at(self, position: int, text: str, records: Mapping[int, EditRecord]) -> KeyAtToken | None:
        """Return the further key that a token matched; None if it matched none.

        Args:
            position: the token's position.
            text: its text.
            records: the record of each further key's edit.
        """
        codebook = self._editor.codebook
        further_keys = codebook.further_keys if codebook is not None else None
        if self._further is None or further_keys is None:
            return None
        inputs, keys = self._further
        key = int(keys[position])
        if key < 0:
            return None
        return KeyAtToken(
            token=text,
            key=key,
            case_id=records[key].case_id,
            distance=float(further_keys.distances(inputs[position : position + 1].to(further_keys.device))[0, key]),
            radius=float(further_keys.radii[key]),
            within=True,
            looked_up=True,
            replaced=True,
            continues=True,
        )
