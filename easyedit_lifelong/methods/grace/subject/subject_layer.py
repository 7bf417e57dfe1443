"""Adaptors for edits that are found by their subjects (``query_token: subject_last``).

Every real token of a forward pass is looked up in the codebook. The two adaptors differ in where an edit answers:

- :class:`SubjectAdaptor` (without ``answer_layer``) replaces the output of the same layer at the token that matched. It
  acts on prompts and on generated text, and does not need to know where the prompt ends.
- :class:`AnswerLayerAdaptor` (with ``answer_layer``) replaces the output of a later layer at the prompt's last token.
  There a relation gate (``gate_eps``) can test whether the prompt asks about the edit's relation: late layers show the
  relation, the early layer that finds subjects does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.adaptor import CHILD, GraceAdaptor
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.named_layers import name_another_layer
from easyedit_lifelong.methods.grace.subject.matched_keys import (
    MatchedKeys,
    MatchesByRow,
    PassMatches,
    matched_keys,
    merge_matches,
)
from easyedit_lifelong.methods.grace.subject.named_subjects import NamedSubjects
from easyedit_lifelong.methods.shared.editors import in_internal_pass
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.windows import Window, repeat_rows

_COUNTED_HITS = -1
"""Entry of ``Generation.decisions`` that holds, by adaptor, the hits already counted, as pairs of prompt and key."""


class SubjectAdaptor(GraceAdaptor):
    """Replaces a layer's output at each token that matches a key of the codebook.

    Args:
        model: the model that the layer belongs to.
        layer: the layer whose inputs are looked up and whose output is replaced.

    Attributes:
        whitening: the matrix that queries are whitened with, see :func:`.whitening_of`; None for no whitening.
        relation_metric: the metric of the relation gate; None for cosine distance of activations.

    Raises:
        ModelError: the layer is outside of the part of the model that reads tokens.
    """

    def __init__(self, model: nn.Module, layer: nn.Module) -> None:
        super().__init__(model, layer, "replace_last", "subject_last")
        self.whitening: Tensor | None = None
        self.relation_metric: RelationMetric | None = None

    def queries(self, inputs: Tensor) -> Tensor:
        """Return a layer's inputs in the space of the codebook's keys.

        Args:
            inputs: shape ``(..., width)``.

        Returns:
            Same shape, float32.
        """
        if self.whitening is not None and self.whitening.device != inputs.device:
            self.whitening = self.whitening.to(inputs.device)
        return whitened(inputs, self.whitening)

    def _apply_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        assert self.codebook is not None
        looked_up = _token_mask(inputs, window)
        queries = self.queries(inputs)
        keys = torch.full(looked_up.shape, -1, device=inputs.device)
        keys[looked_up] = self.codebook.lookup(queries[looked_up])
        replaced = keys >= 0
        if self._record is not None:
            self._record(queries, looked_up, keys, replaced)
        if not replaced.any():
            return None
        self._count_hits(replaced, keys, window)
        values = self.codebook.values_of(keys.clamp(min=0)).to(output.dtype)
        return torch.where(replaced.unsqueeze(-1), values, output)

    def _count_hits(self, replaced: Tensor, keys: Tensor, window: Window | None) -> None:
        """Count a hit for every key that answers, once per row; in a generation, once per prompt.

        Args:
            replaced: the tokens whose output is replaced, ``(batch, tokens)``.
            keys: the key that answers at each of them, ``(batch, tokens)``.
            window: the current pass.
        """
        if self.codebook is None or in_internal_pass(self.model):
            return
        rows = replaced.nonzero()[:, 0].tolist()
        hits = set(zip(rows, keys[replaced].tolist(), strict=True))
        if window is not None and window.generation is not None:
            # Without a cache, every step reads the prompts again; and beam search reorders rows.
            counted = window.generation.decisions.setdefault(_COUNTED_HITS, {}).setdefault(id(self), set())
            n_prompts, n_rows = len(window.generation.ends), len(replaced)  # equally many rows for each prompt
            hits = {(row * n_prompts // n_rows, key) for row, key in hits} - counted
            counted |= hits
        self.codebook.hits.update(key for _, key in hits)


class AnswerLayerAdaptor(SubjectAdaptor):
    """Finds subjects at a key layer, and replaces the output of a later answer layer at the prompt's last token.

    Args:
        model: the model that the layers belong to.
        key_layer: the layer whose inputs are looked up.
        answer_layer: the layer whose output is replaced.

    Attributes:
        layer: the answer layer. Values are tried at this layer during training.
        named_subjects: compares the words of matching tokens with the subjects of keys; None for no comparison.

    Raises:
        ModelError: a layer is outside of the part of the model that reads tokens.
    """

    spanning = True

    def __init__(self, model: nn.Module, key_layer: nn.Module, answer_layer: nn.Module) -> None:
        super().__init__(model, answer_layer)
        self.named_subjects: NamedSubjects | None = None
        self._key_layer = self._codebook_attachment = Attachment(
            model, key_layer, CHILD, self._match_subjects, spanning=True
        )

    def detach(self) -> None:
        """Remove hooks and codebook from the model. Further calls do nothing."""
        super().detach()
        self._key_layer.detach()

    def _match_subjects(self, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        """Store in the pass's window which keys each row's prompt matches; leave the key layer's output unchanged."""
        window = self._key_layer.window
        if self._trial is not None or self.codebook is None or window is None or window.behind:
            return
        inputs = args[0] if args else kwargs.get("hidden_states")
        if not isinstance(inputs, Tensor) or inputs.dim() != 3:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise EditError(
                f"query_token: subject_last needs a layer whose input is (batch, tokens, width), not {shape}. "
                + name_another_layer(self.model, self._key_layer.layer)
            )
        looked_up = _token_mask(inputs, window) & _prompt_mask(inputs, window)
        queries = self.queries(inputs)
        matching = torch.zeros_like(looked_up)
        at_least = 0.0 if self.named_subjects is None else self.named_subjects.radius
        matching[looked_up] = self.codebook.within_any_radius(queries[looked_up], at_least)
        token_keys = torch.full(looked_up.shape, -1, device=inputs.device)
        by_row = self._matches_of_earlier_chunks(window)
        for row in matching.any(dim=1).nonzero().flatten().tolist():
            columns = matching[row].nonzero().flatten()
            found = queries[row, columns]
            distances = self.codebook.distances(found)
            nearness = self.codebook.relative_distances(found, distances=distances)
            if self.named_subjects is not None:
                named = self.codebook.relative_distances(found, at_least, distances)
                nearness = self.named_subjects.checked(named, nearness, window, row, columns)
            token_keys[row, columns] = torch.where(nearness.isfinite().any(dim=1), nearness.argmin(dim=1), -1)
            matches = matched_keys(nearness, columns + window.past)
            if not len(matches.keys):
                continue
            by_row[row] = merge_matches(by_row[row], matches) if row in by_row else matches
        if window.generation is not None:
            window.generation.decisions[id(self)] = by_row
        # Matches belong to this pass's rows, so they are stored with the pass and not on the adaptor.
        window.notes[id(self)] = PassMatches(by_row, queries, looked_up, token_keys)

    def _matches_of_earlier_chunks(self, window: Window) -> MatchesByRow:
        """Return what earlier passes of a generation matched, which have read the first chunks of the prompts."""
        if window.generation is None or window.past == 0:
            return {}
        return dict(window.generation.decisions.get(id(self), {}))

    def _apply_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        assert self.codebook is not None
        matches: PassMatches | None = window.notes.get(id(self)) if window is not None else None
        if window is None or matches is None:
            return None
        replaced = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        answer_keys = torch.full(inputs.shape[:2], -1, device=inputs.device)
        ends = window.ends.tolist()
        unmarked = window.unmarked.tolist() if window.unmarked is not None else [False] * len(inputs)
        for row, row_matches in matches.by_row.items():
            columns = {ends[row]} if ends[row] >= 0 else set()
            if unmarked[row]:
                columns |= set(self._ends_of_edited_prompts(inputs[row], row_matches))
            for column in columns:
                key = self._choose_key(inputs[row, column], row_matches)
                if key >= 0:
                    replaced[row, column], answer_keys[row, column] = True, key
        if self._record is not None:
            keys = torch.where(replaced, answer_keys, matches.token_keys.to(inputs.device))
            self._record(matches.queries, matches.looked_up, keys, replaced)
        if not replaced.any():
            return None
        self._count_hits(replaced, answer_keys, window)
        edited = output.clone()
        edited[replaced] = self.codebook.values_of(answer_keys[replaced].to(self.codebook.device)).to(output)
        return edited

    def _ends_of_edited_prompts(self, inputs: Tensor, matches: MatchedKeys) -> list[int]:
        """Return the columns of a row at which the prompt of an edit ends: there, the gate equals that of the edit.

        Args:
            inputs: the answer layer's input, shape ``(tokens, width)``.
            matches: the keys that the row matches.
        """
        assert self.codebook is not None
        if self.codebook.gate_eps is None:
            return []
        same = self.codebook.same_prompt(inputs.to(self.codebook.device), matches.keys)
        return same.any(dim=1).nonzero().flatten().tolist()

    def _choose_key(self, gate_query: Tensor, matches: MatchedKeys) -> int:
        """Return which of the matched keys answers at a prompt's last token; -1 if none does.

        Keys whose gate is farther away than ``gate_eps`` are left out. Of the others, the key with the least sum of two
        distances answers: from subject to key in units of the radius, and between gates in units of ``gate_eps``. If
        sums are equal, the key whose token comes last in the prompt answers: if one subject begins with another ("Rome"
        and "Rome river"), this is the key of the longer subject.

        Args:
            gate_query: the answer layer's input at the prompt's last token, ``(width,)``.
            matches: the keys that the prompt matches.
        """
        assert self.codebook is not None
        total, gate_eps = matches.nearness, self.codebook.gate_eps
        if gate_eps is not None:
            queries = gate_query.to(self.codebook.device).unsqueeze(0)
            gate_distances = self.codebook.gate_distances(queries, matches.keys)[0]
            total = (total + gate_distances / gate_eps).masked_fill(gate_distances > gate_eps, float("inf"))
        least = total.min()
        best = int(torch.where(total == least, matches.column, -1).argmax())
        return int(matches.keys[best]) if torch.isfinite(least) else -1


def _token_mask(inputs: Tensor, window: Window | None) -> Tensor:
    """Return which columns hold tokens and not padding, ``(batch, tokens)``; all of them without a window."""
    if window is None:
        return torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    return window.real.to(inputs.device)


def _prompt_mask(inputs: Tensor, window: Window) -> Tensor:
    """Return which columns of a pass belong to its rows' prompts, ``(batch, tokens)``."""
    ends = window.ends
    if window.generation is not None:  # a pass over an early chunk contains no prompt end, so use the generation's ends
        ends = repeat_rows(window.generation.ends.to(ends.device), len(ends)) - window.past
    return torch.arange(inputs.shape[1], device=inputs.device) <= ends.to(inputs.device).unsqueeze(1)
