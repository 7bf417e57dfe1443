"""The editor of the native ROME, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, SeparateBatches
from easyedit_lifelong.methods.rome.config import NativeRomeHyperParams
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.records import EditRecord
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.weight_updates.history import Batch, Templates
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate
from easyedit_lifelong.models.quantisation import update_dtype


class RomeEditor(WeightEditor[Batch]):
    """Edits a model's weights with ROME (arXiv 2202.05262, section 3.1). Get it with :meth:`on`.

    Each fact gets a rank-one update of one projection W, made with the updates of the facts before it in place:

        Δ = (v* - W k) uᵀ / (kᵀu),    u = C⁻¹ k*,    W ← W + Δ

    k* is the mean input of the projection at the lookup token over all contexts, k its input in the plain prompt, and
    C = E[kkᵀ] over ordinary text. v* is the output of the projection with which the model gives the target.
    """

    hparams_class = NativeRomeHyperParams

    @property
    def solver_class(self) -> type[AccumulatedKeys]:
        """The class of the solvers: (C + k* k*ᵀ)⁻¹ k* has the direction of C⁻¹ k*, and the length of u cancels."""
        return SeparateBatches

    @classmethod
    def make_templates(cls, model: Any, tokenizer: Any, hparams: Any) -> Templates:
        """Return the context templates in one group: k* is the mean over all of them."""
        return [[template for group in super().make_templates(model, tokenizer, hparams) for template in group]]

    def target_vectors(self, facts: Sequence[Fact], known: Tensor | None, layer: int) -> TargetVectors:
        """Return the target vector v* of a fact, at the output of the edited projection (section 3.1, step 2)."""
        if known is not None:
            return TargetVectors.not_optimised(known)
        (projection,) = self._layers.modules.values()
        return optimise_targets(self._runner, facts, self.hparams, layer, projection)

    def update_layers(
        self, facts: Sequence[Fact], passes: EditingPasses, z: Tensor
    ) -> tuple[Batch, Sequence[Mapping[str, Any]]]:
        """Compute and apply the update of one fact (equation 2).

        Args:
            facts: the fact.
            passes: runs its prompts.
            z: the target vector v*, shape ``(1, outputs)``.

        Returns:
            The batch of this fact, and no additional entries.

        Raises:
            EditError: the update cannot be computed, or is not finite.
        """
        ((path, module),) = self._layers.modules.items()
        keys, plain_keys, outputs = passes.keys_and_plain_values(module)
        residual = z.to(outputs.device).double() - outputs
        dtype = update_dtype(module)
        if self.hparams.mom2_adjustment:
            direction = self._solvers[path].update(keys.t(), residual.t()).adjusted
        else:
            direction = keys.t()
        direction = direction.to("cpu", torch.float64)
        product = (plain_keys.to(direction) @ direction).item()  # kᵀu
        if product == 0:
            raise EditError(f"{facts[0].request.where}: the key of the plain prompt has no component along u")
        update = LayerUpdate(keys.t().to("cpu", dtype), (direction / product).to(dtype), residual.t().to("cpu", dtype))
        self._layers.apply(path, update)
        return Batch((EditRecord.of(facts[0].request),), {path: update}), [{}]

    def _prepare_solvers(self) -> None:
        """Make the solver of the layer, unless ``mom2_adjustment`` is false."""
        if self.hparams.mom2_adjustment:
            super()._prepare_solvers()


def apply_rome_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: NativeRomeHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with ROME, request by request.

    Arguments, result and errors are those of :func:`~easyedit_lifelong.methods.memit.editor.apply_memit_to_model`.
    """
    return apply_requests(
        RomeEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
