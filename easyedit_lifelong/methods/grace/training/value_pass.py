"""Forward passes over requests, in which the values that GRACE trains replace a layer's output.

For a causal language model, a pass runs only the part that a value can change (:mod:`.suffix_pass`). Where attention
looks both ways, a value also changes tokens to its left, so a :class:`FullPass` runs over all tokens. It still reuses
constant results: the outputs of the blocks below the edited layer, and the encoder's output for a value in the decoder.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.adaptor import GraceAdaptor
from easyedit_lifelong.methods.grace.trial import Trial
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import IGNORED, EncodedPair, pad_rows
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.partial_pass import fixed_output, hidden_of, same_logits, with_hidden
from easyedit_lifelong.models.stack_trackers import find_stack


def rows_of_edits(edits: Sequence[int], rows_per_edit: int) -> list[int]:
    """Return the rows of some edits in a pass in which each edit has the same number of consecutive rows."""
    return [edit * rows_per_edit + row for edit in edits for row in range(rows_per_edit)]


class ValuePass(abc.ABC):
    """The logits at the targets of a batch, as a function of the values that replace the edited layer's output.

    Subclasses define :meth:`_forward`, and call :meth:`_run_full_pass` once.

    Args:
        adaptor: the adaptor on the edited layer.
        targets: the classes or tokens to predict, ``(rows, targets)``; ``IGNORED`` for padding.
        position: position of the token whose output a value replaces, the same in every row.
        below: the blocks below the edited one, in order. Their outputs are constant, so they run only once, and later
            passes use the output of the last of them.

    Attributes:
        queries: the layer's input at the recorded tokens, from that position on, ``(rows, tokens, key_size)``.
        outputs: the layer's output at these tokens, ``(rows, tokens, value_size)``.
        targets: as given.
        unedited: the logits without values, ``(rows, targets, classes)``.
        has_independent_rows: whether :meth:`select_rows` can repeat rows.
    """

    has_independent_rows = False
    queries: Tensor
    outputs: Tensor
    unedited: Tensor

    def __init__(self, adaptor: GraceAdaptor, targets: Tensor, position: int, below: Sequence[nn.Module] = ()) -> None:
        self.targets = targets
        self._adaptor, self._position, self._below = adaptor, position, below
        self._output_below: Any = None

    @property
    def query(self) -> Tensor:
        """The layer's input at the position, ``(rows, key_size)``."""
        return self.queries[:, 0]

    @property
    def output(self) -> Tensor:
        """The layer's output at the position, ``(rows, value_size)``."""
        return self.outputs[:, 0]

    @property
    def is_partial(self) -> bool:
        """Whether a pass runs less than the full model."""
        return bool(self._below)

    def logits(self, values: Tensor | None) -> Tensor:
        """Return the logits that predict the targets.

        Args:
            values: they replace the layer's output, see :class:`.Trial` for their shape; None for no replacement.

        Returns:
            Logits, shape ``(rows, targets, classes)``, differentiable in the values.
        """
        with self._adaptor.using_trial(Trial(values, self._position)), self._reusing_constants():
            return self._forward()

    def agrees(self) -> bool:
        """Whether a partial pass without values gives the same logits as the full pass."""
        with torch.no_grad():
            partial = self.logits(None)
        real = self.targets != IGNORED
        return same_logits(partial[real], self.unedited[real], partial.dtype)

    @abc.abstractmethod
    def select_rows(self, rows: Tensor) -> ValuePass:
        """Return a pass over a selection of the rows, some of which may be repeated."""

    def restricted(self, logits: Tensor, count: int, edits: int) -> ValuePass | None:
        """Return a pass that computes the logits of likely tokens only; None if all logits have to be computed.

        Args:
            logits: logits of an exact pass, ``(rows, targets, classes)``.
            count: number of likely tokens for each edit.
            edits: number of edits; each has the same number of consecutive rows.
        """
        return None

    def rounded(self) -> ValuePass | None:
        """Return a pass that computes matrix products in bfloat16; None if this kind of pass can't."""
        return None

    @abc.abstractmethod
    def _forward(self) -> Tensor:
        """Run a pass that reuses constant results; return its logits."""

    def _reusing_constants(self) -> contextlib.AbstractContextManager[Any]:
        """Reuse constant results in the pass inside the context."""
        return fixed_output(self._below, self._output_below)

    def _run_full_pass(self, run: Callable[[], Tensor], position: int, start: int = 0, tokens: int = 1) -> None:
        """Run one full pass; keep its logits, the layer's queries and outputs, and the constant results.

        Args:
            run: runs the pass, and returns its logits.
            position: position, in the full pass, of the token whose output a value replaces.
            start: first position of later passes.
            tokens: number of tokens to record, from ``position`` on.
        """

        def keep_from_start(output: Any) -> None:
            self._output_below = with_hidden(output, hidden_of(output)[:, start:])

        trial = Trial(None, position, tokens)
        with (
            torch.no_grad(),
            self._adaptor.using_trial(trial),
            recording_output(self._below[-1] if self._below else None, keep_from_start),
        ):
            self.unedited = run()
        if trial.query is None or trial.output is None:
            raise EditError("the model does not run the layer in inner_params. Name a projection, an MLP or a block.")
        self.queries, self.outputs = trial.query, trial.output


class FullPass(ValuePass):
    """A pass over all tokens of one example, in one or more copies; see :class:`.ValuePass`.

    Args:
        adaptor: the adaptor on the edited layer.
        run: runs the model on the copies; returns the logits, or an output object with ``logits``.
        targets: the classes or tokens to predict, ``(rows, targets)``.
        position: position of the query token, the same in every row.
        below: the blocks below the edited one, in order.
    """

    def __init__(
        self,
        adaptor: GraceAdaptor,
        run: Callable[[], Any],
        targets: Tensor,
        position: int,
        below: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__(adaptor, targets, position, below)
        self._run = run
        self._run_full_pass(self._forward, position)

    def select_rows(self, rows: Tensor) -> FullPass:
        """Return this pass: its rows are copies of one example, so they stay together."""
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
    """Return the pass over a request for an encoder-decoder model or a classifier.

    Args:
        model: the model, in evaluation mode.
        adaptor: the adaptor on the edited layer.
        layer_path: the layer's path in its stack (encoder or decoder).
        pair: the request's prompt and target.
        copies: number of rows.
        pad: the padding token's id.
        anatomy: the parts of that stack, to run the blocks below the layer only once; None to run all blocks.
    """
    device = input_device(model)
    ids, mask = pad_rows([pair.prompt] * copies, pad, "right", device)
    targets = torch.tensor([pair.target] * copies, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    position = 0 if adaptor.query_token == "first" else len(pair.prompt) - 1
    if kind_of(model) is ModelKind.SEQ2SEQ:
        inputs |= {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(labels=targets), "use_cache": False}
        encoder = model.get_encoder()
        if find_stack(model, adaptor.layer) is not encoder:
            with torch.no_grad():
                inputs["encoder_outputs"] = encoder(input_ids=inputs.pop("input_ids"), attention_mask=mask)
            position = 0  # the decoder's start token
    block = anatomy.block_of(layer_path) if anatomy is not None else None
    below = list(anatomy.blocks)[:block] if anatomy is not None and block else []
    return FullPass(adaptor, functools.partial(model, **inputs), targets, position, below)


def module_pass(model: nn.Module, adaptor: GraceAdaptor, row: Tensor, label: int, copies: int) -> FullPass:
    """Return the pass over one example of a plain module.

    Args:
        model: maps ``(batch, …)`` to class logits ``(batch, classes)``.
        adaptor: the adaptor on the edited layer.
        row: the example, without a batch dimension.
        label: the class to predict.
        copies: number of rows.
    """
    rows = torch.stack([row] * copies)
    return FullPass(adaptor, functools.partial(model, rows), torch.full((copies, 1), label, device=rows.device), -1)
