"""Target vectors z of a block's output that an update of the block's MLP can reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams
from easyedit_lifelong.methods.locate_edit.editing_passes import EditingPasses
from easyedit_lifelong.methods.locate_edit.facts import Fact
from easyedit_lifelong.methods.locate_edit.target_vectors import TargetVectors, optimise_targets
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.output_norm import find_output_norm
from easyedit_lifelong.models.runner import Runner


def optimise_block_targets(
    runner: Runner, facts: Sequence[Fact], hparams: LocateEditHyperParams, layer: int
) -> TargetVectors:
    """Optimise the target vectors of a batch at the output of a block.

    In most models, δ is added to the block's output h, and z = h + δ. A block that normalises the output m of its MLP
    can't add any δ to h, since the norm fixes the length of what it adds. There δ is added to m, and
    z = h - norm(m) + norm(m + δ).

    Args:
        runner: runs the model.
        facts: the batch.
        hparams: steps, learning rate, penalties, names of modules.
        layer: number of the block.

    Raises:
        EditError: a loss became NaN or infinite; the message names the record.
        ModelError: the block changes the output of its MLP in a way that can't be accounted for.
    """
    block = find_module(runner.model, hparams.layer_module_tmp.format(layer))[1]
    projection = find_module(runner.model, hparams.rewrite_module_tmp.format(layer))[1]
    norm = find_output_norm(runner, block, projection)
    if norm is None:
        return optimise_targets(runner, facts, hparams, layer)
    targets = optimise_targets(runner, facts, hparams, layer, projection)
    h, m = EditingPasses(runner, facts, [block]).outputs_for_prompts([block, projection])
    z = h - norm(m) + norm(targets.z)
    return dataclasses.replace(targets, z=z.to(targets.z.dtype))
