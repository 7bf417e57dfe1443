"""The editor of ENN, and its apply function with the signature that EasyEdit expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from easyedit_lifelong.methods.enn.config import ENNHyperParams
from easyedit_lifelong.methods.enn.network import EditableWeights
from easyedit_lifelong.methods.hypernetworks.editor import HypernetworkEditor, NetworkBatch
from easyedit_lifelong.methods.hypernetworks.network import Hypernetwork
from easyedit_lifelong.methods.hypernetworks.token_gradients import token_gradients
from easyedit_lifelong.methods.shared.apply import apply_requests
from easyedit_lifelong.methods.shared.results import EditResult
from easyedit_lifelong.methods.shared.rollback import Rollback
from easyedit_lifelong.methods.training.example_passes import ExampleLosses, ExamplePasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.weight_updates.edited_layers import changed_weight
from easyedit_lifelong.methods.weight_updates.layer_update import FactoredUpdate, ProductUpdate, WeightUpdate


@dataclass(frozen=True)
class ENNUpdate(FactoredUpdate):
    """The update of one projection by one batch: Δ = D + R Aᵀ, where only the first batch on a model has D.

    Attributes:
        adjusted: A, the inputs at the tokens of the edits, shape ``(inputs, tokens)``.
        residual: R, the output gradients times -α, shape ``(outputs, tokens)``.
        base: D, the change of the weight that the training made, shape ``(outputs, inputs)``; ``(outputs, 0)`` in later
            batches.
    """

    adjusted: Tensor
    residual: Tensor
    base: Tensor

    def added_to(self, delta: Tensor | None) -> Tensor:
        """Return ΔW + Δ in the dtype of the factors; see :class:`WeightUpdate`."""
        if self.base.shape[1]:
            delta = self.base if delta is None else delta + self.base.to(delta)
        return super().added_to(delta)


@dataclass(frozen=True)
class ENNBatch(NetworkBatch):
    """The edits that one batch made, with an :class:`ENNUpdate` of each projection."""

    update_class: ClassVar[type[Any]] = ENNUpdate


class ENNEditor(HypernetworkEditor):
    """Edits a model with gradient steps on trained weights (arXiv 2004.00345). Get it with :meth:`on`.

    The first batch on a model also replaces the weights of its projections by the trained ones. So a rollback of all
    batches restores the weights that the model was loaded with.
    """

    hparams_class = ENNHyperParams
    network_class = EditableWeights
    batch_class = ENNBatch

    def compute_updates(
        self, network: Hypernetwork, passes: ExamplePasses, examples: Sequence[Example]
    ) -> tuple[Mapping[str, WeightUpdate], ExampleLosses]:
        """Return the update of each projection, and the losses of the examples before the gradient steps."""
        assert isinstance(network, EditableWeights)
        modules, changes = self._layers.modules, network.base_changes()
        weights = {path: self._layers.master_weight(path) for path in modules}
        if self.state.batches:
            changes = {path: change[:, :0] for path, change in changes.items()}
        else:
            weights = network.trained_weights(modules, weights)
        steps: list[dict[str, ProductUpdate]] = []
        losses: list[ExampleLosses] = []
        for _ in range(self.hparams.n_edit_steps):
            gradients, loss = token_gradients(passes, modules, examples, weights)
            losses.append(loss)
            steps.append(network.updates(examples, gradients, observe=False))
            weights = {
                path: changed_weight(modules[path], weight, steps[-1][path].matrix())
                for path, weight in weights.items()
            }
        updates = {}
        for path in modules:
            adjusted = torch.cat([step[path].adjusted for step in steps], dim=1)
            residual = torch.cat([step[path].residual for step in steps], dim=1)
            stored = ProductUpdate(adjusted, residual).stored()
            base = changes[path].detach().to(stored.adjusted, copy=True).contiguous()
            updates[path] = ENNUpdate(stored.adjusted, stored.residual, base)
        return updates, losses[0]


def apply_enn_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Any],
    hparams: ENNHyperParams,
    copy: bool = False,
    return_orig_weights: bool = True,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, Rollback[EditResult]]:
    """Edit a model with a trained ENN, in batches of ``hparams.batch_size``. Requests need no subject.

    The first batch also gives the edited projections their trained weights. A rollback of all batches restores the
    original ones. Otherwise, arguments, result and errors are those of
    :func:`~easyedit_lifelong.methods.mend.editor.apply_mend_to_model`.
    """
    return apply_requests(
        ENNEditor.on, model, tok, requests, hparams, copy=copy, keep_original_weight=keep_original_weight
    )
