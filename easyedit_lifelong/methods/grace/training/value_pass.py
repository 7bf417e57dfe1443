"""Passes over requests as a function of the values that GRACE trains.

A causal language model is run in part (:mod:`.suffix_pass`). Nothing to the left of the edited token is constant
where attention looks both ways, so a :class:`FullPass` runs over all tokens. What lies below the edited layer is
constant still: the blocks below it return what they returned before, and an encoder isn't run again for a value in the
decoder.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.layer import GraceAdaptor, Trial
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, pad_rows
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.prompt_positions import stack_of
from easyedit_lifelong.models.suffix import hidden_of, same_logits, standing_in, with_hidden


class ValuePass(abc.ABC):
    """Logits at the targets of a few rows, as a function of the edited layer's values.

    Subclasses define :meth:`_forward`, and call :meth:`_record` once.

    Args:
        adaptor: on the edited layer.
        targets: the classes or tokens to predict, ``(rows, targets)``; ``IGNORED`` where there is none.
        column: of the token whose output a value replaces, the same in every row.
        below: the blocks below the edited one, which needn't run again, in their order.

    Attributes:
        query: the layer's input at that column, with which the codebook is searched, ``(rows, key_size)``.
        output: the layer's output there, ``(rows, value_size)``.
        targets: as given.
        unedited: the logits without an edit, ``(rows, targets, classes)``.
    """

    query: Tensor
    output: Tensor
    unedited: Tensor

    def __init__(self, adaptor: GraceAdaptor, targets: Tensor, column: int, below: Sequence[nn.Module] = ()) -> None:
        self.targets = targets
        self._adaptor, self._column, self._below = adaptor, column, below
        self._boundary: Any = None

    @property
    def is_partial(self) -> bool:
        """Whether a pass runs less than the full model."""
        return bool(self._below)

    def logits(self, values: Tensor | None) -> Tensor:
        """Return the logits that predict the targets.

        Args:
            values: what replaces the layer's output, shape ``(rows, value_size)``; None for no replacement.

        Returns:
            Shape ``(rows, targets, classes)``; differentiable in the values.
        """
        with self._adaptor.trying(Trial(values, self._column)), self._shortcuts():
            return self._forward()

    def agrees(self) -> bool:
        """Whether a partial pass without a value equals the full pass."""
        with torch.no_grad():
            partial = self.logits(None)
        real = self.targets != IGNORED
        return same_logits(partial[real], self.unedited[real], partial.dtype)

    @abc.abstractmethod
    def select_rows(self, rows: Tensor) -> ValuePass:
        """Return the pass over some of the rows."""

    @abc.abstractmethod
    def _forward(self) -> Tensor:
        """Return the logits of a pass that leaves out what is constant."""

    def _shortcuts(self) -> contextlib.AbstractContextManager[Any]:
        """Have the pass inside leave out what is constant."""
        return standing_in(self._below, self._boundary)

    def _record(self, full_pass: Callable[[], Tensor], column: int, start: int = 0) -> None:
        """Compute what is constant in one full pass, and the layer's query and output.

        Args:
            full_pass: makes the pass, and returns its logits.
            column: of the token whose output a value replaces, in the full pass.
            start: first column that later passes run over.
        """

        def keep(output: Any) -> None:
            self._boundary = with_hidden(output, hidden_of(output)[:, start:])

        trial = Trial(None, column)
        with (
            torch.no_grad(),
            self._adaptor.trying(trial),
            recording_output(self._below[-1] if self._below else None, keep),
        ):
            self.unedited = full_pass()
        assert trial.query is not None and trial.output is not None
        self.query, self.output = trial.query, trial.output


class FullPass(ValuePass):
    """A pass over a few copies of one example; see :class:`.ValuePass`.

    Args:
        adaptor: on the edited layer.
        run: runs the model on the example's copies; returns the logits, or an output that has them.
        targets: the classes or tokens to predict, ``(rows, targets)``.
        column: of the token that is looked up, the same in every row.
        below: the blocks below the edited one, in the order they run.
    """

    def __init__(
        self,
        adaptor: GraceAdaptor,
        run: Callable[[], Any],
        targets: Tensor,
        column: int,
        below: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(adaptor, targets, column, below)
        self._run = run
        self._record(self._forward, column)

    def select_rows(self, rows: Tensor) -> FullPass:
        """Return itself: its rows are copies of one example, which stay in one batch."""
        return self

    def _forward(self) -> Tensor:
        output = self._run()
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.unsqueeze(1) if logits.dim() == 2 else logits


def full_pass(
    model: Any,
    adaptor: GraceAdaptor,
    layer_path: str,
    pair: EncodedPair,
    copies: int,
    pad: int,
    anatomy: Anatomy | None,
) -> FullPass:
    """Return the pass of a request.

    Args:
        model: an encoder-decoder model or a classifier, in evaluation mode.
        adaptor: on the edited layer.
        layer_path: the layer's path in its stack.
        pair: the request's prompt and target.
        copies: how many rows to make of it.
        pad: the padding token's id.
        anatomy: of the stack that holds the layer, to leave out what is below it; None to run it all.
    """
    device = device_of(model.get_input_embeddings())
    ids, mask = pad_rows([pair.prompt] * copies, pad, "right", device)
    targets = torch.tensor([pair.target] * copies, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    column = 0 if adaptor.query_token == "first" else len(pair.prompt) - 1
    if kind_of(model) is Kind.SEQ2SEQ:
        inputs |= {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=targets), "use_cache": False}
        encoder = model.get_encoder()
        if stack_of(model, adaptor.layer) is not encoder:
            with torch.no_grad():
                inputs["encoder_outputs"] = encoder(input_ids=inputs.pop("input_ids"), attention_mask=mask)
            column = 0  # the decoder's start token
    block = anatomy.block_of(layer_path) if anatomy is not None else None
    below = list(anatomy.blocks)[:block] if anatomy is not None and block else []
    return FullPass(adaptor, functools.partial(model, **inputs), targets, column, below)


def module_pass(model: nn.Module, adaptor: GraceAdaptor, row: Tensor, label: int, copies: int) -> FullPass:
    """Return the pass of one example of a plain module.

    Args:
        model: maps ``(batch, …)`` to class logits ``(batch, classes)``.
        adaptor: on the edited layer.
        row: the example, without the batch's dimension.
        label: its class.
        copies: how many rows to make of it.
    """
    rows = torch.stack([row] * copies)
    return FullPass(adaptor, functools.partial(model, rows), torch.full((copies, 1), label, device=rows.device), -1)
