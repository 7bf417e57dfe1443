"""One pass over a corpus for all modules, up to the last of them and no further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.covariance.plan import Block
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.capture import recording_inputs
from easyedit_lifelong.models.encoding import batches, pad_rows
from easyedit_lifelong.models.modules import find_module

BATCH_TOKENS = {"cpu": 2048}
"""Most tokens a batch, by type of device: what fits a CPU's cache, …"""
_BATCH_TOKENS_ELSEWHERE = 16384


class KeyTaker:
    """Feeds rows to a model and sums the second moments of several modules' inputs.

    The pass ends in front of the last module: neither that nor anything after it is computed.

    Args:
        model: causal language model.
        sums: running sums by path of the module.
        pad: token id to fill rows with.
    """

    def __init__(self, model: Any, sums: Mapping[str, MomentSum], pad: int) -> None:
        self.model, self.sums, self._pad = model, sums, pad
        self._modules = {path: find_module(model, path)[1] for path in sums}

    @torch.no_grad()
    def take(self, rows: Sequence[list[int]]) -> None:
        """Add the keys of every token of the rows.

        Raises:
            CovarianceError: a module didn't run, or its inputs aren't one per token.
        """
        # Padding goes to the right, where no real token of a causal model looks.
        device = self.model.get_input_embeddings().weight.device
        ids, mask = pad_rows(rows, self._pad, "right", device)
        padded, waiting = any(len(row) < ids.shape[1] for row in rows), set(self.sums)

        def add(path: str, keys: Any) -> None:
            if not isinstance(keys, Tensor) or keys.dim() < 2 or keys.shape[:-1].numel() != ids.numel():
                shape = tuple(keys.shape) if isinstance(keys, Tensor) else type(keys).__name__
                raise CovarianceError(f"{path}: its inputs ({shape}) aren't one key per token {tuple(ids.shape)}")
            if path in waiting:
                waiting.discard(path)
                flat = keys.reshape(-1, keys.shape[-1])
                self.sums[path].add(flat[mask.bool().reshape(-1).to(flat.device)] if padded else flat)

        with recording_inputs(self._modules, add, end=True):
            self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        if waiting:
            raise CovarianceError(f"{min(waiting)}: didn't run in a forward pass of the model: it has no keys")


def add_block(taker: KeyTaker, block: Block, batch_tokens: int | None = None) -> None:
    """Add one block's keys to the sums."""
    rows = block.rows()
    if batch_tokens is None:
        kind = taker.model.get_input_embeddings().weight.device.type
        batch_tokens = BATCH_TOKENS.get(kind, _BATCH_TOKENS_ELSEWHERE)
    for batch in batches(rows, batch_tokens):
        taker.take(batch)
    for path, total in taker.sums.items():
        try:
            total.flush()
        except CovarianceError as error:
            raise CovarianceError(f"{path}: {error}") from error
