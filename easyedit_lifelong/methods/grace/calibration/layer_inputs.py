"""A store of several layers' inputs, for texts whose activations are needed more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from easyedit_lifelong.methods.calibrator import Progress, no_progress
from easyedit_lifelong.models.capture import input_batches
from easyedit_lifelong.models.runner import Runner


class LayerInputs:
    """The inputs of some layers, stored for each row of tokens, so that no row is computed twice.

    The inputs are stored on the CPU, in the model's dtype: beside a large model, the device may not have room for a
    calibration's texts at a dozen layers.

    Args:
        runner: runs the model.
        layers: the layers, by path.
        ends_only: store only the input at each row's last token.
    """

    def __init__(self, runner: Runner, layers: Mapping[str, nn.Module], *, ends_only: bool = False) -> None:
        self._runner, self._layers, self._ends_only = runner, dict(layers), ends_only
        self._stored: dict[str, dict[tuple[int, ...], Tensor]] = {path: {} for path in layers}

    def read(self, rows: Sequence[list[int]], progress: Progress = no_progress) -> None:
        """Run the model on the rows that are not stored yet.

        Args:
            rows: token ids.
            progress: called after each batch with the number of rows read so far, and the total.

        Raises:
            ModelError: a layer did not run, or its input has no vector for every token.
        """
        stored = next(iter(self._stored.values()))
        missing = [list(row) for row in dict.fromkeys(map(tuple, rows)) if row not in stored]
        done = 0
        for batch, inputs_by_layer in input_batches(self._runner, self._layers, missing):
            for path, inputs in inputs_by_layer.items():
                for row, vectors in zip(batch, inputs.cpu(), strict=True):
                    first = len(row) - 1 if self._ends_only else 0
                    self._stored[path][tuple(row)] = vectors[first : len(row)].clone()
            done += len(batch)
            progress(done, len(missing))

    def at(self, path: str, rows: Sequence[list[int]]) -> list[Tensor]:
        """Return a layer's inputs, after reading the rows that are not stored yet.

        Args:
            path: the layer's path.
            rows: token ids.

        Returns:
            One tensor for each row: ``(tokens, width)``, or ``(1, width)`` with ``ends_only``.

        Raises:
            ModelError: see :meth:`read`.
        """
        self.read(rows)
        return [self._stored[path][tuple(row)] for row in rows]
