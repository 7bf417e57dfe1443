"""Logits from the output of a block before the last one, which MEMIT's ``v_loss_layer`` can name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.models.capture import recording_output
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.partial_pass import hidden_of
from easyedit_lifelong.models.precision import at_least_float32
from easyedit_lifelong.models.runner import Runner


class EarlyHead:
    """Computes logits from the output of a block before the last, if ``v_loss_layer`` names one (MEMIT).

    Args:
        runner: runs the model.
        hparams: name the block and the final norm.
        layer: number of the block whose output is changed. If ``v_loss_layer`` is below it, the logits are computed
            from this block instead, since the change does not affect the blocks below.
    """

    def __init__(self, runner: Runner, hparams: LocateEditHyperParams, layer: int) -> None:
        self._block: nn.Module | None = None
        self._hidden: Tensor | None = None
        if hparams.v_loss_layer is None:
            return
        loss_layer = max(hparams.v_loss_layer, layer)
        if runner.anatomy is not None and loss_layer >= len(runner.anatomy.blocks) - 1:
            return
        self._block = find_module(runner.model, hparams.layer_module_tmp.format(loss_layer))[1]
        self._norm = find_module(runner.model, hparams.ln_f_module)[1]
        self._head = runner.model.get_output_embeddings()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the block's output in the pass within the context."""

        def record(output: Any) -> None:
            self._hidden = hidden_of(output)

        with recording_output(self._block, record):
            yield

    def logits(self, rows: Tensor, columns: Tensor) -> Tensor | None:
        """Return the logits at some positions of the recorded output; None if the loss uses the model's own logits.

        Args:
            rows: the rows of the positions, shape ``(positions,)``.
            columns: the columns of the positions, same shape.
        """
        if self._block is None or self._hidden is None:
            return None
        return at_least_float32(self._head(self._norm(self._hidden[rows, columns])))
