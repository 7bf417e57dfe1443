"""The GRACE adaptor: a forward hook that puts a codebook's values in place of a layer's output.

:mod:`easyedit_lifelong.models.attachment` attaches the hook to the layer and removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.shared.editors import in_internal_pass
from easyedit_lifelong.models.attachment import Attachment
from easyedit_lifelong.models.windows import Window

CHILD = "grace_codebook"
"""Name under which the codebook is a child module of the edited layer."""

RecordLookups = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""A function that receives the lookups of one pass.

Its arguments are the query of every token, shape ``(batch, tokens, key_size)``, and three tensors of shape
``(batch, tokens)``: whether the token was looked up, the index of the key that matched (-1 for none), and whether a
value replaced the layer's output at the token.
"""


@dataclass
class Trial:
    """What the layer does in a pass of training, instead of a lookup in the codebook.

    With ``values``, these replace the layer's output. Without, the output stays, and ``query`` and ``output`` are set.

    Attributes:
        values: one per row, shape ``(batch, value_size)``; None to record instead.
        position: index of the query token, the same in every row; -1 for the last.
        query: the layer's input at that position, ``(batch, key_size)``.
        output: the layer's output at that position, ``(batch, value_size)``.
    """

    values: Tensor | None
    position: int
    query: Tensor | None = None
    output: Tensor | None = None


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

    def uninstall(self) -> None:
        """Take the codebook off the layer."""
        self.codebook = None
        self._codebook_attachment.set_child(None)

    def detach(self) -> None:
        """Remove hook and codebook from the model. Further calls do nothing."""
        self.codebook = None
        self._attachment.detach()

    @contextlib.contextmanager
    def using_trial(self, trial: Trial) -> Iterator[Trial]:
        """Use a trial instead of the codebook in the passes inside the context."""
        self._trial = trial
        try:
            yield trial
        finally:
            self._trial = None

    @contextlib.contextmanager
    def recording_lookups(self, record: RecordLookups) -> Iterator[None]:
        """Call ``record`` with the lookups of each pass inside the context."""
        self._record = record
        try:
            yield
        finally:
            self._record = None

    def _after_layer(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Return the layer's output with values in it; None to leave it unchanged."""
        window = self._attachment.window
        ends_unknown = self._attachment.tracked and window is None  # the caller runs only a part of the model
        if self._trial is None and (self.codebook is None or ends_unknown):
            return None
        inputs = args[0] if args else kwargs.get("hidden_states")
        hidden = output if isinstance(output, Tensor) else output[0]
        if not isinstance(inputs, Tensor) or not _has_batch_rows(inputs, window):
            raise EditError(
                f"GRACE needs a layer that maps (batch, tokens, width); {type(self.layer).__name__} gets "
                f"{tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__}. "
                "Name another layer in inner_params."
            )
        without_tokens = inputs.dim() == 2
        if without_tokens:  # treat every row as a row of one token
            inputs, hidden, window = inputs.unsqueeze(1), hidden.unsqueeze(1), None
        if self._trial is not None:
            replaced = self._apply_trial(inputs, hidden, self._trial)
        else:
            replaced = self._apply_codebook(inputs, hidden, window)
        if replaced is None:
            return None
        replaced = replaced.squeeze(1) if without_tokens else replaced
        return replaced if isinstance(output, Tensor) else (replaced, *output[1:])

    def _apply_trial(self, inputs: Tensor, output: Tensor, trial: Trial) -> Tensor | None:
        """Return the output with the trial's values in it; without values, set the trial's query and output instead."""
        position = trial.position % inputs.shape[1]
        if trial.values is None:
            trial.query = inputs[:, position].detach().float()
            trial.output = output[:, position].detach().float()
            return None
        positions = torch.full((len(output),), position, device=output.device)
        values = trial.values.to(output.dtype).unsqueeze(1)
        return torch.where(self._tokens_to_replace(positions, output), values, output)

    def _apply_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        """Return the output with the values of matching keys in it; None if no key matches.

        Args:
            inputs: the layer's input, shape ``(batch, tokens, key_size)``.
            output: the layer's output, shape ``(batch, tokens, value_size)``.
            window: the running pass; None if the model does not track prompts.
        """
        assert self.codebook is not None
        positions = self._query_positions(inputs, window)
        # Without a KV cache, every step of a generation looks its prompts up again. Only the first lookup counts.
        generation = window.generation if window is not None else None
        is_first_lookup = generation is None or id(self) not in generation.decisions
        keys = self._keys_of_rows(inputs, positions, window)
        if keys is None or (self._record is None and not (keys >= 0).any()):
            return None
        replaced = self._tokens_to_replace(positions, output) & (keys >= 0).view(-1, 1, 1)
        if self._record is not None:
            looked_up = torch.arange(inputs.shape[1], device=inputs.device) == positions.unsqueeze(1)
            self._record(inputs, looked_up, torch.where(looked_up, keys.unsqueeze(1), -1), replaced.squeeze(-1))
        if is_first_lookup and not in_internal_pass(self.model):
            self.codebook.hits.update(keys[keys >= 0].tolist())
        values = self.codebook.values[keys.clamp(min=0)].to(output.dtype)
        return torch.where(replaced, values.unsqueeze(1), output)

    def _keys_of_rows(self, inputs: Tensor, positions: Tensor, window: Window | None) -> Tensor | None:
        """Return the key that matches each row's query, ``(batch,)``; -1 where none matches.

        A pass over generated tokens holds no query. For such a pass, return the keys that the generation's prompts
        matched, or None if the value does not replace the output at generated tokens.

        Args:
            inputs: the layer's input, shape ``(batch, tokens, key_size)``.
            positions: see :meth:`_query_positions`.
            window: the running pass; None if the model does not track prompts.
        """
        assert self.codebook is not None
        has_query = positions >= 0
        # Where `behind` already says that there is no query, do not wait for the device to say so.
        after_prompts = window is not None and window.behind
        if after_prompts or not has_query.any():
            return self._keys_of_prompts(window, len(inputs))
        rows = torch.arange(len(inputs), device=inputs.device)
        queries = inputs[rows, positions.clamp(min=0)]
        keys = torch.where(has_query, self.codebook.lookup(queries), -1)
        if window is not None and window.generation is not None:
            window.generation.decisions[id(self)] = keys
        return keys

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

    def _tokens_to_replace(self, query_positions: Tensor, output: Tensor) -> Tensor:
        """Return which tokens' output the value of a row replaces, shape ``(batch, tokens, 1)``."""
        position = torch.arange(output.shape[1], device=output.device).view(1, -1, 1)
        query_position = query_positions.to(output.device).view(-1, 1, 1)
        if self.replacement == "replace_all":
            return torch.ones_like(position, dtype=torch.bool).expand(len(query_positions), -1, 1)
        if self.replacement == "replace_last":
            return position == query_position
        return position > query_position if self.query_token == "first" else position < query_position


def _has_batch_rows(inputs: Tensor, window: Window | None) -> bool:
    """Whether a layer's input has one row per example. Some layers get the tokens of all examples in one axis."""
    return inputs.dim() == 3 or (inputs.dim() == 2 and (window is None or len(inputs) == len(window.real)))
