"""Run rows of a corpus through a model, and sum the second moments of several modules' inputs in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.covariance.blocks import Block
from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.capture import recording_inputs
from easyedit_lifelong.models.encoding import pad_rows, row_batches
from easyedit_lifelong.models.modules import find_module

BATCH_TOKENS = {"cpu": 2048}
"""Maximum number of tokens in a batch, by type of device. On a CPU, such a batch fits into its cache."""
_DEFAULT_BATCH_TOKENS = 16384


class KeyCollector:
    """Runs a model on token rows and adds the keys k, the inputs of several modules, to running sums.

    A forward pass ends before the last module: neither this module nor anything after it is computed.

    Args:
        model: causal language model.
        sums: running sums by path of the module.
        pad: id of the padding token.
    """

    def __init__(self, model: Any, sums: Mapping[str, MomentSum], pad: int) -> None:
        self.model, self.sums, self._pad = model, sums, pad
        self._modules = {path: find_module(model, path)[1] for path in sums}

    @torch.no_grad()
    def add_rows(self, rows: Sequence[list[int]]) -> None:
        """Add the keys of all tokens of the rows to the sums.

        Raises:
            CovarianceError: a module didn't run, or it doesn't receive one vector per token.
        """
        # Tokens of a causal model don't attend to padding on the right.
        device = self.model.get_input_embeddings().weight.device
        ids, mask = pad_rows(rows, self._pad, "right", device)
        has_padding = any(len(row) < ids.shape[1] for row in rows)
        missing = set(self.sums)  # the modules that have not run yet

        def add_keys(path: str, keys: Any) -> None:
            if not isinstance(keys, Tensor) or keys.dim() < 2 or keys.shape[:-1].numel() != ids.numel():
                shape = tuple(keys.shape) if isinstance(keys, Tensor) else type(keys).__name__
                raise CovarianceError(f"{path}: its inputs ({shape}) aren't one key per token {tuple(ids.shape)}")
            if path in missing:
                missing.discard(path)
                flat = keys.reshape(-1, keys.shape[-1])
                if has_padding:
                    flat = flat[mask.bool().reshape(-1).to(flat.device)]
                self.sums[path].add(flat)

        with recording_inputs(self._modules, add_keys, end=True):
            self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        if missing:
            raise CovarianceError(f"{min(missing)}: didn't run in a forward pass of the model: it has no keys")


def add_block(collector: KeyCollector, block: Block, batch_tokens: int | None = None) -> None:
    """Add the keys of a block to the sums.

    Args:
        collector: adds the keys of a batch.
        block: the block.
        batch_tokens: maximum number of tokens in a batch; the default depends on the device.

    Raises:
        CovarianceError: the keys can't be collected, or contain NaN or infinity.
    """
    rows = block.rows()
    if batch_tokens is None:
        device_type = collector.model.get_input_embeddings().weight.device.type
        batch_tokens = BATCH_TOKENS.get(device_type, _DEFAULT_BATCH_TOKENS)
    for batch in row_batches(rows, batch_tokens):
        collector.add_rows(batch)
    for path, moment_sum in collector.sums.items():
        try:
            moment_sum.flush()
        except CovarianceError as error:
            raise CovarianceError(f"{path}: {error}") from error
