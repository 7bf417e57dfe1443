"""Train a GRACE value against a model that isn't a causal language model, by full forward passes.

Nothing to the left of the edited token is constant where attention looks both ways, so a pass runs over all
tokens. What lies below the edited layer is constant still: the blocks below it return what they returned before, and an
encoder isn't run again for a value in the decoder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.methods.grace.layer import GraceAdaptor
from easyedit_lifelong.methods.grace.training.value_pass import ValuePass
from easyedit_lifelong.models.anatomy import Anatomy
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.encoding import EncodedPair, pad_rows
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.stacks import stack_of


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
