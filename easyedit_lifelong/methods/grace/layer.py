"""The GRACE adaptor: a codebook on one layer of a model, answering through a forward hook.

How it gets there and off again is :mod:`easyedit_lifelong.models.attachment`.
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

RecordDecisions = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Hears of a pass: what every token would ask the codebook with, ``(batch, tokens, key_size)``; and, each ``(batch,
tokens)``, whether it was looked up, the key that answered it (-1: none), and whether it got a value."""


@dataclass
class Trial:
    """Values to put in place of the layer's output, whatever the codebook says.

    Attributes:
        values: one per row, shape ``(batch, value_size)``; None to leave the output alone.
        column: of the token that is looked up, the same in every row; -1 for the last.
        query: filled by the pass: the layer's input at that column, ``(batch, key_size)``.
        output: filled by the pass: the layer's output there, ``(batch, value_size)``.
    """

    values: Tensor | None
    column: int
    query: Tensor | None = None
    output: Tensor | None = None


class GraceAdaptor:
    """Looks every pass's queries up in the codebook and replaces what fires.

    Args:
        model: the model that the layer belongs to.
        layer: the edited layer: any module from ``(batch, tokens, width)`` or ``(batch, width)`` to the same
            or another width. Without tokens, every row is looked up.
        replacement: which tokens get the value; see
            :class:`~easyedit_lifelong.methods.grace.config.GraceHyperParams`.
        query_token: which token is looked up; see there.

    Attributes:
        spanning: whether it does at its layer what it found at an earlier one.

    Raises:
        ModelError: the layer is outside of what reads tokens.
    """

    spanning = False

    def __init__(self, model: nn.Module, layer: nn.Module, replacement: str, query_token: str = "prompt_last") -> None:
        self.model, self.layer, self.replacement, self.query_token = model, layer, replacement, query_token
        self.codebook: Codebook | None = None
        self._trial: Trial | None = None
        self._record: RecordDecisions | None = None
        self._attachment = Attachment(model, layer, CHILD, self._after_layer)
        self._keeping = self._attachment  # of the layer that the codebook is kept on

    @property
    def attached(self) -> bool:
        """Whether the adaptor is still on the layer."""
        return self._attachment.attached

    def install(self, codebook: Codebook) -> None:
        """Put a codebook on the layer."""
        self.codebook = codebook.train(self.layer.training)
        self._keeping.keep(codebook)

    def uninstall(self) -> None:
        """Take the codebook off the layer."""
        self.codebook = None
        self._keeping.keep(None)

    def detach(self) -> None:
        """Leave the model as it was before the adaptor came; at the second call, do nothing."""
        self.codebook = None
        self._attachment.detach()

    @contextlib.contextmanager
    def trying(self, trial: Trial) -> Iterator[Trial]:
        """Use the trial instead of the codebook in the passes inside."""
        self._trial = trial
        try:
            yield trial
        finally:
            self._trial = None

    @contextlib.contextmanager
    def recording_decisions(self, record: RecordDecisions) -> Iterator[None]:
        """Call ``record`` with what the codebook decides in the passes inside."""
        self._record = record
        try:
            yield
        finally:
            self._record = None

    def _after_layer(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        window = self._attachment.window
        if self._trial is None and (self.codebook is None or (self._attachment.tracked and window is None)):
            return None
        inputs = args[0] if args else kwargs.get("hidden_states")
        whole = output if isinstance(output, Tensor) else output[0]
        if not isinstance(inputs, Tensor) or not _has_rows(inputs, window):
            raise EditError(
                f"GRACE needs a layer that maps (batch, tokens, width); {type(self.layer).__name__} gets "
                f"{tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__}. "
                "Name another layer in inner_params."
            )
        without_tokens = inputs.dim() == 2
        if without_tokens:  # then every row is one token
            inputs, whole, window = inputs.unsqueeze(1), whole.unsqueeze(1), None
        if self._trial is not None:
            replaced = self._with_trial(inputs, whole, self._trial)
        else:
            replaced = self._with_codebook(inputs, whole, window)
        if replaced is None:
            return None
        replaced = replaced.squeeze(1) if without_tokens else replaced
        return replaced if isinstance(output, Tensor) else (replaced, *output[1:])

    def _with_trial(self, inputs: Tensor, output: Tensor, trial: Trial) -> Tensor | None:
        column = trial.column % inputs.shape[1]
        if trial.values is None:
            trial.query = inputs[:, column].detach().float()
            trial.output = output[:, column].detach().float()
            return None
        asked = torch.full((len(output),), column, device=output.device)
        return torch.where(self._columns(asked, output), trial.values.to(output.dtype).unsqueeze(1), output)

    def _with_codebook(self, inputs: Tensor, output: Tensor, window: Window | None) -> Tensor | None:
        assert self.codebook is not None
        columns = self._columns_asked(inputs, window)
        generation = window.generation if window is not None else None
        asked, memory = columns >= 0, generation.decisions if generation is not None else {}
        first = id(self) not in memory  # without a cache, every step of a generation looks its prompts up again
        behind = window is not None and window.behind  # then nothing is asked, and no device has to say so
        if not behind and asked.any():
            rows = torch.arange(len(inputs), device=inputs.device)
            queries = inputs[rows, columns.clamp(min=0)]
            fired = torch.where(asked, self.codebook.lookup(queries), -1)
            memory[id(self)] = fired
        else:
            remembered = self._remembered(window, len(inputs))
            if remembered is None:
                return None
            fired = remembered
        if self._record is None and not (fired >= 0).any():
            return None
        replaced = self._columns(columns, output) & (fired >= 0).view(-1, 1, 1)
        if self._record is not None:
            looked_up = torch.arange(inputs.shape[1], device=inputs.device) == columns.unsqueeze(1)
            self._record(inputs, looked_up, torch.where(looked_up, fired.unsqueeze(1), -1), replaced.squeeze(-1))
        if first and not in_internal_pass(self.model):
            self.codebook.hits.update(fired[fired >= 0].tolist())
        values = self.codebook.values[fired.clamp(min=0)].to(output.dtype)
        return torch.where(replaced, values.unsqueeze(1), output)

    def _columns_asked(self, inputs: Tensor, window: Window | None) -> Tensor:
        """Return the column of the token that is looked up in each row, ``(batch,)``; -1 where this pass lacks it."""
        if window is None:  # nobody says which tokens are real: all of them
            column = 0 if self.query_token == "first" else inputs.shape[1] - 1
            return torch.full((len(inputs),), column, device=inputs.device)
        if self.query_token == "first":
            first = window.real.long().argmax(dim=1)
            return (first if window.past == 0 else torch.full_like(first, -1)).to(inputs.device)
        return window.ends.to(inputs.device)

    def _remembered(self, window: Window | None, batch: int) -> Tensor | None:
        """Return what fired on the prompts of a generation under way, where later tokens need it."""
        if window is None or window.generation is None or self.replacement != "replace_all":
            return None
        fired = window.generation.decisions.get(id(self))
        return fired if fired is not None and len(fired) == batch else None

    def _columns(self, asked: Tensor, output: Tensor) -> Tensor:
        """Return which tokens get the value, shape ``(batch, tokens, 1)``."""
        column = torch.arange(output.shape[1], device=output.device).view(1, -1, 1)
        query = asked.to(output.device).view(-1, 1, 1)
        if self.replacement == "replace_all":
            return torch.ones_like(column, dtype=torch.bool).expand(len(asked), -1, 1)
        if self.replacement == "replace_last":
            return column == query
        return column > query if self.query_token == "first" else column < query


def _has_rows(inputs: Tensor, window: Window | None) -> bool:
    """Whether a layer's input has the batch's rows: some layers get all their tokens in one row after the other."""
    return inputs.dim() == 3 or (inputs.dim() == 2 and (window is None or len(inputs) == len(window.real)))
