"""The GRACE adaptor: a forward hook that puts a codebook's values in place of a layer's output.

:mod:`easyedit_lifelong.models.attachment` attaches the hook to the layer and removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.named_layers import name_another_layer
from easyedit_lifelong.methods.grace.trial import Trial
from easyedit_lifelong.methods.shared.editors import in_internal_pass
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.partial_pass import hidden_of, with_hidden
from easyedit_lifelong.models.windows import Window

CHILD = "grace_codebook"
"""Name under which the codebook is a child module of the edited layer."""

RecordLookups = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""A function that receives the lookups of one pass.

Its arguments are the query of every token, shape ``(batch, tokens, key_size)``, and three tensors of shape
``(batch, tokens)``: whether the token was looked up, the index of the key that matched (-1 for none), and whether a
value replaced the layer's output at the token.
"""

RecordFurtherLookups = Callable[[Tensor, Tensor], None]
"""A function that receives the lookups of further keys in one pass.

Its arguments are the layer's input at every token, shape ``(batch, tokens, width)``, and the index of the further key
that matched, -1 for none, shape ``(batch, tokens)``.
"""


class GraceAdaptor:
    """Looks up the queries of every pass in the codebook, and replaces the layer's output where a key matches.

    Args:
        model: the model that the layer belongs to.
        layer: the edited layer: any module that maps ``(batch, tokens, width)`` or ``(batch, width)`` to the same
            or another width. Without a token axis, every row is one query.
        replacement: the tokens whose output a value replaces; see
            :class:`~easyedit_lifelong.methods.grace.config.GraceHyperParams`.
        query_token: the token whose activation is the query; see the same class.

    Attributes:
        codebook: the codebook on the layer; None before the first edit.
        spanning: whether the adaptor spans two layers: looks queries up at one, and replaces the output of a later one.

    Raises:
        ModelError: the layer is outside the modules that read tokens.
    """

    spanning = False

    def __init__(self, model: nn.Module, layer: nn.Module, replacement: str, query_token: str = "prompt_last") -> None:
        self.model, self.layer, self.replacement, self.query_token = model, layer, replacement, query_token
        self.codebook: Codebook | None = None
        self._trial: Trial | None = None
        self._record: RecordLookups | None = None
        self._record_further: RecordFurtherLookups | None = None
        self._attachment = Attachment(model, layer, CHILD, self._after_layer)
        self._codebook_attachment = self._attachment
        """The attachment to the layer that holds the codebook as a child module: the key layer."""

    @property
    def attached(self) -> bool:
        """Whether the adaptor is on the layer."""
        return self._attachment.attached

    def install(self, codebook: Codebook) -> None:
        """Put a codebook on the layer."""
        self.codebook = codebook.train(self.layer.training)
        self._codebook_attachment.set_child(codebook)

    def detach(self) -> None:
        """Remove hook and codebook from the model. Further calls do nothing."""
        self.codebook = None
        self._attachment.detach()

    def using_trial(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        """Use a trial instead of the codebook in the passes inside the context."""
        return overridden("_trial", {self: trial})

    @contextlib.contextmanager
    def recording_lookups(
        self, record: RecordLookups, record_further: RecordFurtherLookups | None = None
    ) -> Iterator[None]:
        """Call ``record`` and ``record_further`` with the lookups of each pass inside the context."""
        with overridden("_record", {self: record}), overridden("_record_further", {self: record_further}):
            yield

    def _after_layer(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the layer's output with values in it; None to leave it unchanged."""
        window = self._attachment.window
        ends_unknown = self._attachment.tracked and window is None  # the caller runs only a part of the model
        if self._trial is None and (self.codebook is None or ends_unknown):
            return None
        inputs = args[0] if args else kwargs.get("hidden_states")
        hidden = hidden_of(output)
        if not isinstance(inputs, Tensor) or not _has_batch_rows(inputs, window):
            raise EditError(
                f"GRACE needs a layer that maps (batch, tokens, width); {type(self.layer).__name__} gets "
                f"{tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__}. "
                + name_another_layer(self.model, self.layer)
            )
        without_tokens = inputs.dim() == 2
        if without_tokens:  # treat every row as a row of one token
            inputs, hidden, window = inputs.unsqueeze(1), hidden.unsqueeze(1), None
        if self._trial is not None:
            replaced = self._apply_trial(inputs, hidden, self._trial)
        else:
            continued = self._apply_further_keys(inputs, hidden, window)
            replaced = self._apply_codebook(inputs, hidden if continued is None else continued, window)
            replaced = continued if replaced is None else replaced
        if replaced is None:
            return None
        return with_hidden(output, replaced.squeeze(1) if without_tokens else replaced)

    def _apply_trial(self, inputs: Tensor, output: Tensor, trial: Trial) -> Tensor | None:
        """Return the output with the trial's values in it; without values, set the trial's query and output instead."""
        position = trial.position % inputs.shape[1]
        if trial.values is None:
            recorded = slice(position, position + trial.tokens)
            trial.query, trial.output = inputs[:, recorded].detach().float(), output[:, recorded].detach().float()
            return None
        if trial.values.dim() == 3:
            after = position + trial.values.shape[1]
            return torch.cat([output[:, :position], trial.values.to(output.dtype), output[:, after:]], dim=1)
        matches = torch.full(output.shape[:2], -1, device=output.device)
        matches[:, position] = 0
        replaced = (self._keys_in_effect(matches) >= 0).unsqueeze(-1)
        return torch.where(replaced, trial.values.to(output.dtype).unsqueeze(1), output)

    def _apply_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        """Return the output with the values of matching keys in it; None if no key matches.

        Args:
            inputs: the layer's input, shape ``(batch, tokens, key_size)``.
            output: the layer's output, shape ``(batch, tokens, value_size)``.
            window: the running pass; None if the model does not track prompts.
        """
        assert self.codebook is not None
        # Without a KV cache, every step of a generation looks its prompts up again. Only the first lookup counts.
        generation = window.generation if window is not None else None
        is_first_lookup = generation is None or id(self) not in generation.decisions
        looked_up = self._tokens_to_look_up(inputs, window)
        matches = torch.full(inputs.shape[:2], -1, device=inputs.device)
        if looked_up is not None:
            matches[looked_up] = self.codebook.lookup(inputs[looked_up])
            keys = self._keys_in_effect(matches)
            if generation is not None:
                generation.decisions[id(self)] = matches.amax(dim=1)
        else:
            keys_of_prompts = self._keys_of_prompts(window, len(inputs))
            if keys_of_prompts is None:
                return None
            keys, looked_up = keys_of_prompts.unsqueeze(1).expand_as(matches), torch.zeros_like(matches).bool()
        replaced = keys >= 0
        if self._record is not None:
            self._record(inputs, looked_up, matches, replaced)
        if not replaced.any():
            return None
        if is_first_lookup and not in_internal_pass(self.model):
            rows, columns = (matches >= 0).nonzero(as_tuple=True)
            hits = set(zip(rows.tolist(), matches[rows, columns].tolist(), strict=True))
            self.codebook.hits.update(key for _, key in hits)
        values = self.codebook.values_of(keys.clamp(min=0)).to(output.dtype)
        return torch.where(replaced.unsqueeze(-1), values, output)

    def _apply_further_keys(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        """Return the output with the values of matching further keys in it; None if none matches.

        Every token is looked up, whatever is known about prompts: a further key is the activation at one token of one
        text, so a pass over a full text, one over a part of it and a step of a generation find the same keys.

        Args:
            inputs: the layer's input, shape ``(batch, tokens, width)``.
            output: the layer's output, shape ``(batch, tokens, value_size)``.
            window: the running pass; None if the model does not track prompts.
        """
        further_keys = self.codebook.further_keys if self.codebook is not None else None
        if further_keys is None:
            return None
        real = torch.ones(inputs.shape[:2]).bool() if window is None else window.real
        looked_up = real.to(inputs.device)
        keys = torch.full(inputs.shape[:2], -1, device=inputs.device)
        keys[looked_up] = further_keys.lookup(inputs[looked_up].to(further_keys.device)).to(inputs.device)
        replaced = keys >= 0
        if self._record_further is not None:
            self._record_further(inputs, keys)
        if not replaced.any():
            return None
        edited = output.clone()
        edited[replaced] = further_keys.values_of(keys[replaced].to(further_keys.device)).to(output)
        return edited

    def _tokens_to_look_up(self, inputs: Tensor, window: Window | None) -> Tensor | None:
        """Return which tokens are looked up, ``(batch, tokens)``; None if this pass contains no query.

        These are the query tokens. Where nothing marks a prompt's end, they are all tokens of the row.
        """
        unmarked = window.unmarked if window is not None and self._finds_any_token else None
        if window is not None and window.behind and unmarked is None:
            return None  # known without waiting for the device
        positions = self._query_positions(inputs, window)
        looked_up = torch.arange(inputs.shape[1], device=inputs.device) == positions.unsqueeze(1)
        if window is not None and unmarked is not None:
            looked_up |= (unmarked.unsqueeze(1) & window.real).to(inputs.device)
        return looked_up if looked_up.any() else None

    @property
    def _finds_any_token(self) -> bool:
        """Whether a token's activation does not depend on later tokens, so that a prompt is found in a longer row."""
        return self.query_token == "prompt_last" and kind_of(self.model) is ModelKind.CAUSAL

    def _query_positions(self, inputs: Tensor, window: Window | None) -> Tensor:
        """Return the position of each row's query token, ``(batch,)``; -1 where this pass does not contain it."""
        if window is None:  # no padding is known, so every token counts as real
            position = 0 if self.query_token == "first" else inputs.shape[1] - 1
            return torch.full((len(inputs),), position, device=inputs.device)
        if self.query_token == "first":
            first = window.real.long().argmax(dim=1)
            return (first if window.past == 0 else torch.full_like(first, -1)).to(inputs.device)
        return window.ends.to(inputs.device)

    def _keys_of_prompts(self, window: Window | None, batch: int) -> Tensor | None:
        """Return the keys that the prompts of the running generation matched, ``(batch,)``.

        Return None if no generation is running, or if the value does not replace the output at generated tokens.
        """
        if window is None or window.generation is None or self.replacement != "replace_all":
            return None
        keys = window.generation.decisions.get(id(self))
        return keys if keys is not None and len(keys) == batch else None

    def _keys_in_effect(self, matches: Tensor) -> Tensor:
        """Return the key whose value replaces the output at each token, -1 for none, ``(batch, tokens)``.

        Only rows that nothing marks can have several matches. Each of these acts on its part of the row, so that
        tokens which follow an answer don't change the scores of the answer: with ``replace_all``, a token has the value
        of the latest match at or before it (tokens before the first match have that of the first); with
        ``replace_prompt``, it has that of the next match after it.

        Args:
            matches: the key that each token matches; -1 for none. Shape ``(batch, tokens)``.
        """
        if self.replacement == "replace_last":
            return matches
        length = matches.shape[1]
        column = torch.arange(length, device=matches.device).expand_as(matches)
        latest = torch.where(matches >= 0, column, -1).cummax(dim=1).values
        upcoming = torch.where(matches >= 0, column, length).flip(1).cummin(dim=1).values.flip(1)
        if self.replacement == "replace_all":
            source = torch.where(latest >= 0, latest, upcoming)
        elif self.query_token == "first":
            source = torch.where(latest < column, latest, -1)
        else:
            source = torch.cat([upcoming[:, 1:], upcoming.new_full((len(upcoming), 1), length)], dim=1)
        has_source = (source >= 0) & (source < length)
        return torch.where(has_source, matches.gather(1, source.clamp(0, length - 1)), -1)


def _has_batch_rows(inputs: Tensor, window: Window | None) -> bool:
    """Whether a layer's input has one row per example. Some layers get the tokens of all examples in one axis."""
    return inputs.dim() == 3 or (inputs.dim() == 2 and (window is None or len(inputs) == len(window.real)))
