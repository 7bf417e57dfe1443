"""The inputs of several layers, for texts that are needed repeatedly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.models.capture import input_batches
from easyedit_lifelong.models.runner import Runner


class LayerInputs:
    """The inputs of some layers, stored by row of tokens: no row is computed twice.

    They are stored on the CPU, in the model's dtype: a calibration's texts at a dozen layers may not fit beside a
    large model.

    Args:
        runner: of the model.
        layers: the layers by their paths.
        ends_only: store each row's last token alone.
    """

    def __init__(self, runner: Runner, layers: Mapping[str, nn.Module], *, ends_only: bool = False) -> None:
        self._runner, self._layers, self._ends_only = runner, dict(layers), ends_only
        self._stored: dict[str, dict[tuple[int, ...], Tensor]] = {path: {} for path in layers}

    def read(self, rows: Sequence[list[int]], progress: Progress = no_progress) -> None:
        """Run the model on those rows that are not stored.

        Args:
            rows: token ids, in any number.
            progress: called after each batch of rows.

        Raises:
            ModelError: a layer did not run, or gets no vector for every token.
        """
        known = next(iter(self._stored.values()))
        missing = [list(row) for row in dict.fromkeys(map(tuple, rows)) if row not in known]
        done = 0
        for batch, seen in input_batches(self._runner, self._layers, missing):
            for path, inputs in seen.items():
                for row, vectors in zip(batch, inputs.cpu(), strict=True):
                    first = len(row) - 1 if self._ends_only else 0
                    self._stored[path][tuple(row)] = vectors[first : len(row)].clone()
            done += len(batch)
            progress(done, len(missing))

    def at(self, path: str, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return a layer's inputs: one tensor for each row, ``(tokens, width)``, ``(1, width)`` with ``ends_only``."""
        self.read(rows)
        return [self._stored[path][tuple(row)] for row in rows]
