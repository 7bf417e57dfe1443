"""Edit weights in consecutive batches, without hook layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.methods.locate_edit.edited_weights import EditedLayers, EditedWeights
from easyedit_lifelong.methods.locate_edit.editor import BatchEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.history import Batch
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.spread import spread_residual
from easyedit_lifelong.methods.shared.records import EditRecord


class WeightEditor(BatchEditor[Batch]):
    """Edits a model's weights in consecutive batches, W ← W + Δ; each batch is rolled back bitwise."""

    def make_layers(self, modules: Mapping[str, nn.Module]) -> EditedLayers:
        """Return the weights of these projections."""
        return EditedWeights(modules, self.hparams.ALG_NAME)

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[Batch, Sequence[Mapping[str, Any]]]:
        """Update the weights for a batch; see :meth:`BatchEditor.update_layers`."""
        updates = spread_residual(self._layers, self._solvers, passes, z)
        return Batch(tuple(EditRecord.of(fact.request) for fact in facts), updates), [{}] * len(facts)
