"""Spread the residual of a batch over the edited layers, and make the solver of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from easyedit_lifelong.covariance import SecondMoment
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.update import Solver, solving_device
from easyedit_lifelong.methods.weight_updates.edited_layers import EditedLayers
from easyedit_lifelong.methods.weight_updates.history import Batch
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate
from easyedit_lifelong.models.devices import device_of
from easyedit_lifelong.models.quantisation import update_dtype


def spread_residual(
    layers: EditedLayers,
    solvers: Mapping[str, Solver],
    passes: EditingPasses,
    z: Tensor,
    paths: Sequence[str] | None = None,
) -> dict[str, LayerUpdate]:
    """Update the layers for a batch (MEMIT, arXiv 2210.07229, section 4.3).

    The residual of a layer is R = (z - h)/n, where n is the number of layers that are left, this one included, and h
    is the present output of the last edited block. The keys and h are computed with the layers below updated.

    Args:
        layers: the layers to update.
        solvers: the solver of each layer, by path. The keys of the batch are added to each of them.
        passes: runs the prompts of the batch.
        z: the target vectors, shape ``(facts, width)``.
        paths: the paths of the layers over which to spread the residual; None: all of them.

    Returns:
        The update of each of these layers, by path.

    Raises:
        EditError: an update cannot be computed, or is not finite.
    """
    updates: dict[str, LayerUpdate] = {}
    paths = list(layers.modules) if paths is None else paths
    for index, path in enumerate(paths):
        layers_left = len(paths) - index
        keys, outputs = passes.keys_and_outputs(layers.modules[path])
        residual = (z.to(outputs.device).double() - outputs) / layers_left
        residual = passes.change_of_output(layers.modules[path], residual)
        updates[path] = update = solvers[path].update(keys.t(), residual.t())
        solvers[path].add(update.keys)
        layers.apply(path, update)
    return updates


SolverFactory = Callable[[SecondMoment, torch.device, torch.dtype], Solver]
"""Returns the solver of a layer, from its second moment, the device to solve on, and the dtype of keys and updates."""


def make_solvers(
    make_solver: SolverFactory,
    modules: Mapping[str, nn.Module],
    moments: Mapping[str, SecondMoment],
    batches: Sequence[Batch],
) -> dict[str, Solver]:
    """Return a solver for each layer, by path, with the keys of earlier batches added.

    Args:
        make_solver: makes the solver of one layer.
        modules: the edited projections, by path.
        moments: the second moment of each projection, by path.
        batches: the earlier batches.
    """
    solvers: dict[str, Solver] = {}
    for path, module in modules.items():
        device = solving_device(len(moments[path].moment), device_of(module), len(modules))
        dtype = update_dtype(module)
        solvers[path] = make_solver(moments[path], device, dtype)
        for batch in batches:
            update = batch.layers[path]
            assert isinstance(update, LayerUpdate)
            solvers[path].add(update.keys)
    return solvers
