"""Text that was sampled from a model, on disk: sampling takes most of the time of a collection of second moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from easyedit_lifelong.covariance.npz import writing_file
from easyedit_lifelong.stored_tensors import read_stored_tensors

_NAME = "tokens"


class SampledTexts:
    """Stores blocks of sampled rows, for the statistics of other modules.

    Args:
        folder: folder of the files. Each block has one.
        identity: all that the sampling depends on, besides the block: the model's weights and the seed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self._folder, self._identity = folder, {"format": "1", **identity}

    def block(self, number: int, rows: int, length: int, sample: Callable[[], Tensor]) -> Tensor:
        """Return the rows of a block: the stored ones, or those that are sampled and stored now.

        Args:
            number: the number of the block.
            rows: how many rows it has. Another number of rows gives other text.
            length: the length of a row, in tokens.
            sample: samples the rows.

        Returns:
            Token ids, shape ``(rows, length)``.

        Raises:
            CovarianceError: the file can't be written.
        """
        identity = {**self._identity, "block": str(number), "rows": str(rows), "length": str(length)}
        file = self._folder / f"text-{self._identity['seed']}-{number}-{rows}x{length}.safetensors"
        stored = read_stored_tensors(file, [_NAME], identity)
        if stored is not None:
            return stored[_NAME].long()
        tokens = sample()
        with writing_file(file) as temporary:
            save_file({_NAME: tokens.to(torch.int32)}, temporary, identity)
        return tokens
