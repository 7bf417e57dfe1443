"""Train a GRACE value against a model that isn't a causal language model, one whole forward pass after the other.

Nothing to the left of the edited token is constant where attention looks both ways, so a pass runs over all
tokens. What lies below the edited layer is constant still: the blocks below it stand in for themselves, and an
encoder isn't run again for a value in the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.layer import GraceAdaptor, Trial
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import EncodedPair, pad_rows
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.stacks import stack_of
from easyedit_lifelong.models.suffix import recording_output, same_logits, standing_in


class WholePass:
    """Logits at the targets of a few copies of one example, as a function of the layer's values.

    Args:
        model: the model, in evaluation mode.
        adaptor: on the edited layer.
        inputs: what the model's forward pass is given, by name.
        targets: the classes or tokens that it should predict, ``(rows, targets)``.
        column: of the token that is looked up, the same in every row.
        below: the blocks below the edited one, in the order they run.

    Attributes:
        query: the layer's input at that column, ``(rows, key_size)``.
        output: the layer's output there, ``(rows, value_size)``.
        targets: as given.
        unedited: the logits without an edit, ``(rows, targets, classes)``.
    """

    def __init__(
        self,
        model: nn.Module,
        adaptor: GraceAdaptor,
        inputs: Mapping[str, Any],
        targets: Tensor,
        column: int,
        below: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.adaptor, self.targets = model, adaptor, targets
        self._inputs, self._column = inputs, column
        self._below: Sequence[nn.Module] = ()
        self._boundary: Any = None
        trial = Trial(None, column)
        with torch.no_grad(), adaptor.trying(trial), recording_output(below[-1] if below else None, self._keep):
            self.unedited = self._forward()
        self._below = below
        assert trial.query is not None and trial.output is not None
        self.query, self.output = trial.query, trial.output

    @property
    def is_partial(self) -> bool:
        """Whether less than the whole model runs."""
        return bool(self._below)

    def logits(self, values: Tensor) -> Tensor:
        """Return the logits that predict the targets, with these values in place.

        Args:
            values: shape ``(rows, value_size)``.

        Returns:
            Shape ``(rows, targets, classes)``; differentiable in the values.
        """
        with self.adaptor.trying(Trial(values, self._column)), standing_in(self._below, self._boundary):
            return self._forward()

    def taking(self, rows: Tensor) -> WholePass:
        """Return itself: its rows are copies of one example, which stay together."""
        return self

    def agrees(self) -> bool:
        """Whether a pass with blocks standing in equals the one without."""
        trial = Trial(None, self._column)
        with torch.no_grad(), standing_in(self._below, self._boundary), self.adaptor.trying(trial):
            again = self._forward()
        return same_logits(again, self.unedited, again.dtype)

    def _keep(self, output: Any) -> None:
        self._boundary = output

    def _forward(self) -> Tensor:
        output = self.model(**self._inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.unsqueeze(1) if logits.dim() == 2 else logits


def whole_pass(
    model: Any, adaptor: GraceAdaptor, layer_path: str, pair: EncodedPair, copies: int, pad: int,
    anatomy: Anatomy | None,
) -> WholePass:  # fmt: skip
    """Return the pass of a request.

    Args:
        model: an encoder-decoder model or a classifier, in evaluation mode.
        adaptor: on the edited layer.
        layer_path: the layer's path in the model.
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
    return WholePass(model, adaptor, inputs, targets, column, below)


def module_pass(model: nn.Module, adaptor: GraceAdaptor, row: Tensor, label: int, copies: int) -> WholePass:
    """Return the pass of one example of a plain module.

    Args:
        model: maps ``(batch, …)`` to class logits ``(batch, classes)``.
        adaptor: on the edited layer.
        row: the example, without the batch's dimension.
        label: its class.
        copies: how many rows to make of it.
    """
    rows = torch.stack([row] * copies)
    return WholePass(_Called(model), adaptor, {"rows": rows}, torch.full((copies, 1), label, device=rows.device), -1)


class _Called(nn.Module):
    """A module whose one argument has a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, rows: Tensor) -> Any:
        return self.module(rows)
