"""What several layers get to see of texts, in one pass that ends in front of the last of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance.plan import batches
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.runner import Runner
from easyedit_lifelong.models.suffix import PassEnded

_BATCH_TOKENS = 2048

Counting = Callable[[int, int], None]
"""Hears what is done and the total."""


class Inputs:
    """The inputs of some layers, kept by row: what has been seen once isn't computed again.

    Kept on the CPU, in the model's dtype: a calibration's texts at a dozen layers may not fit beside a large model.

    Args:
        runner: of the model.
        layers: the layers by their paths.
        ends_only: keep each row's last token alone.
    """

    def __init__(self, runner: Runner, layers: Mapping[str, nn.Module], *, ends_only: bool = False) -> None:
        self._runner, self._layers, self._ends_only = runner, dict(layers), ends_only
        self._taken: dict[str, dict[tuple[int, ...], Tensor]] = {path: {} for path in layers}

    def read(self, rows: Sequence[list[int]], progress: Counting | None = None) -> None:
        """Run the model on those rows that it hasn't been run on.

        Args:
            rows: token ids, in any number.
            progress: hears of the rows done.

        Raises:
            ModelError: a layer didn't run, or gets no input for every token.
        """
        known = next(iter(self._taken.values()))
        missing = [list(row) for row in dict.fromkeys(tuple(row) for row in rows) if row not in known]
        seen: dict[str, Tensor] = {}
        handles = [
            layer.register_forward_pre_hook(self._hook(path, seen), with_kwargs=True)
            for path, layer in self._layers.items()
        ]
        done = 0
        try:
            for batch in batches(missing, _BATCH_TOKENS):
                self._take(batch, seen)
                done += len(batch)
                if progress is not None:
                    progress(done, len(missing))
        finally:
            for handle in handles:
                handle.remove()

    def at(self, path: str, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return a layer's inputs: one tensor for each row, ``(tokens, width)``, ``(1, width)`` with ``ends_only``."""
        self.read(rows)
        return [self._taken[path][tuple(row)] for row in rows]

    def _hook(self, path: str, seen: dict[str, Tensor]) -> Callable[..., None]:
        def take(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen[path] = args[0] if args else kwargs["hidden_states"]
            if len(seen) == len(self._layers):
                raise PassEnded

        return take

    @torch.no_grad()
    def _take(self, batch: list[list[int]], seen: dict[str, Tensor]) -> None:
        ids, mask = pad_rows(batch, self._runner.pad, "right", self._runner.device)
        seen.clear()
        with contextlib.suppress(PassEnded):
            self._runner.call(ids, mask, mask.sum(dim=1))
        for path in self._layers:
            if path not in seen or seen[path].shape[:2] != ids.shape:
                raise ModelError(
                    f"{path} gets no input for every token; it can't be calibrated for. Name other layers."
                )
            for row, inputs in zip(batch, seen[path].cpu(), strict=True):
                first = len(row) - 1 if self._ends_only else 0
                self._taken[path][tuple(row)] = inputs[first : len(row)].clone()
