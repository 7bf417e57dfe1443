"""Spread a batch's residual over the edited layers: keys, residual and update of each, from the first to the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment, regularisation
from easyedit_lifelong.methods.locate_edit.edited_layers import EditedLayers, weight_of
from easyedit_lifelong.methods.locate_edit.history import Batch
from easyedit_lifelong.methods.locate_edit.passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, LayerUpdate, Solver, solving_device
from easyedit_lifelong.models.devices import device_of


def spread_residual(
    layers: EditedLayers, solvers: Mapping[str, Solver], passes: EditingPasses, z: Tensor
) -> dict[str, LayerUpdate]:
    """Update the layers for a batch (MEMIT, arXiv 2210.07229, section 4.3).

    With n layers left, the layer's residual is R = (z - h)/n, where h is what the last edited block returns now. Keys
    and h are computed with the updates of the layers below in place.

    Args:
        layers: the layers; they get their updates.
        solvers: of each layer, by path; they get the batch's keys.
        passes: of the batch's prompts.
        z: the target vectors, shape ``(facts, width)``.

    Returns:
        Each layer's update, by path.

    Raises:
        EditError: an update cannot be solved for, or is not finite.
    """
    updates: dict[str, LayerUpdate] = {}
    for number, (path, module) in enumerate(layers.modules.items()):
        keys, outputs = passes.keys_and_outputs(module)
        residual = (z.to(outputs.device).double() - outputs) / (len(layers.modules) - number)
        updates[path] = update = solvers[path].update(keys.t(), residual.t())
        solvers[path].add(update.keys)
        layers.apply(path, update)
    return updates


def make_solvers(
    solver_class: type[AccumulatedKeys],
    modules: Mapping[str, nn.Module],
    moments: Mapping[str, SecondMoment],
    weight: float,
    batches: Sequence[Batch],
) -> dict[str, Solver]:
    """Return the solver of each layer, by path, with the keys of the batches so far.

    Args:
        solver_class: its class.
        modules: the edited projections, by path.
        moments: E[kkᵀ] of each.
        weight: λ, ``mom2_update_weight``.
        batches: so far.
    """
    solvers: dict[str, Solver] = {}
    for path, module in modules.items():
        statistic = moments[path]
        size = len(statistic.moment)
        solvers[path] = solver_class(
            statistic.moment,
            weight,
            ridge=regularisation(statistic.count, size),
            device=solving_device(size, device_of(module), len(modules)),
            dtype=torch.promote_types(weight_of(module).dtype, torch.float32),
        )
        for batch in batches:
            solvers[path].add(batch.layers[path].keys)
    return solvers
