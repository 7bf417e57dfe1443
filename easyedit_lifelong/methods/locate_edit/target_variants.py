"""An editor with variants of MEMIT's target vectors: BLUE and NAS."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.norm_anchor import measured_anchor, scaled_targets
from easyedit_lifelong.methods.locate_edit.spread import spread_residual
from easyedit_lifelong.methods.locate_edit.target_variants_config import MEASURE, TargetVariantHyperParams
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors
from easyedit_lifelong.methods.shared.editors import without_edits
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.weight_updates.history import Batch
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate


@dataclass(frozen=True)
class AnchoredBatch(Batch):
    """The edits that one batch made, with the norm anchors that its values were scaled to.

    Attributes:
        norm_anchors: the norm anchor of each block whose output has target vectors, from the first to the last; empty
            without ``norm_anchor``.
    """

    norm_anchors: list[float] = field(default_factory=list)


class TargetVariantsEditor(WeightEditor[AnchoredBatch]):
    """A :class:`WeightEditor` with the options of :class:`TargetVariantHyperParams`.

    With ``blue``, each edited layer has its own target vectors. They are optimised, and the layer is updated, before
    those of the next layer are optimised. With ``norm_anchor``, target vectors are scaled before the update. A measured
    anchor belongs to the base model: it is measured before the first batch, and later batches reuse it.
    """

    batch_class = AnchoredBatch
    hparams: TargetVariantHyperParams

    def check_targets(self, targets: Tensor | None, count: int) -> None:
        """Check that there are target vectors for each request and, with ``blue``, for each edited layer."""
        super().check_targets(targets, count)
        if targets is None:
            return
        layers, blue = self.hparams.edited_layers, self.hparams.blue
        if targets.dim() != (3 if blue else 2) or (blue and targets.shape[1] != len(layers)):
            expected = f"(requests, {len(layers)}, width), for the layers {layers}" if blue else "(requests, width)"
            raise EditError(
                f"blue: {str(blue).lower()} needs target vectors of the shape {expected}; these have the shape "
                f"{tuple(targets.shape)}"
            )

    def edit_facts(
        self, facts: Sequence[Fact], known_targets: Tensor | None
    ) -> tuple[TargetVectors, AnchoredBatch, Sequence[Mapping[str, Any]]]:
        """Compute the target vectors of a batch, and apply its updates; see :meth:`WeightEditor.edit_facts`."""
        anchors = self._norm_anchors()
        updates: dict[str, LayerUpdate] = {}
        found: list[TargetVectors] = []
        for index, positions in enumerate(self._position_groups()):
            blocks = [self._blocks[position] for position in positions]
            paths = [self.state.paths[position] for position in positions]
            known = known_targets
            if known is not None and self.hparams.blue:
                known = known[:, index]
            targets = self.target_vectors(facts, known, self.hparams.edited_layers[positions[-1]])
            passes = EditingPasses(self._runner, facts, blocks)
            z = targets.z
            if anchors:
                h, v = passes.outputs_for_prompts([blocks[-1], self._layers.modules[paths[-1]]])
                z = scaled_targets(z, h, v, anchors[index])
            updates |= spread_residual(self._layers, self._solvers, passes, z, paths)
            found.append(dataclasses.replace(targets, z=z))
        records = tuple(EditRecord.of(fact.request) for fact in facts)
        return TargetVectors.of_all_layers(found), AnchoredBatch(records, updates, anchors), [{}] * len(facts)

    def _check_loadable(self, batch: AnchoredBatch) -> None:
        """Check that a saved batch has the layers and the norm anchors of this editor."""
        super()._check_loadable(batch)
        expected = 0 if self.hparams.norm_anchor is None else len(self._position_groups())
        anchors = batch.norm_anchors
        if not isinstance(anchors, list) or [type(anchor) for anchor in anchors] != [float] * expected:
            raise EditError(f"norm_anchors: {anchors} isn't a list of {expected} numbers")

    def _position_groups(self) -> list[list[int]]:
        """Return the positions of the edited layers in groups: the layers of a group share target vectors."""
        positions = list(range(len(self.state.paths)))
        return [[position] for position in positions] if self.hparams.blue else [positions]

    def _norm_anchors(self) -> list[float]:
        """Return the norm anchor of each group of layers; measure it before the first batch, if necessary."""
        anchor = self.hparams.norm_anchor
        if anchor is None:
            return []
        if self.state.batches:
            return list(self.state.batches[-1].norm_anchors)
        groups = self._position_groups()
        if anchor != MEASURE:
            return [float(anchor)] * len(groups)
        with without_edits(self.model):
            layers = [self.hparams.edited_layers[positions[-1]] for positions in groups]
            return [measured_anchor(self._runner, self.hparams, layer) for layer in layers]
