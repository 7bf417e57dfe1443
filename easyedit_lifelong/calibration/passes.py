"""The inputs of several layers, of texts that are asked for again and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from easyedit_lifelong.models.capture import input_batches
from easyedit_lifelong.models.runner import Runner

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
            ModelError: a layer didn't run, or gets no vector for every token.
        """
        known = next(iter(self._taken.values()))
        missing = dict.fromkeys(tuple(row) for row in rows if tuple(row) not in known)
        done = 0
        for batch, seen in input_batches(self._runner, self._layers, [list(row) for row in missing]):
            for path, inputs in seen.items():
                for row, vectors in zip(batch, inputs.cpu(), strict=True):
                    first = len(row) - 1 if self._ends_only else 0
                    self._taken[path][tuple(row)] = vectors[first : len(row)].clone()
            done += len(batch)
            if progress is not None:
                progress(done, len(missing))

    def at(self, path: str, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return a layer's inputs: one tensor for each row, ``(tokens, width)``, ``(1, width)`` with ``ends_only``."""
        self.read(rows)
        return [self._taken[path][tuple(row)] for row in rows]
