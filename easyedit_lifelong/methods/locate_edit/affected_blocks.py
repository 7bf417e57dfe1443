"""Which blocks of a model a changed hidden state affects."""

from __future__ import annotations

from torch import nn

from easyedit_lifelong.models.prompt_positions import full_prompt_layers
from easyedit_lifelong.models.runner import Runner


def split_blocks(
    runner: Runner, block: nn.Module, projection: nn.Module | None
) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """Return the constant blocks and the affected blocks; None if all passes must be full.

    Args:
        runner: runs the model.
        block: the block whose output is changed, or that of its projection.
        projection: the projection; None: the block's own output is changed.
    """
    blocks: list[nn.Module] = list(runner.anatomy.blocks) if runner.anatomy is not None else []
    if block not in blocks:
        return None
    count = blocks.index(block) + (projection is None)
    constant, affected = blocks[:count], blocks[count:]
    # The projection's output is replaced, so that its hooks don't run.
    run = {module for block in affected for module in block.modules()} - {projection}
    if not run.isdisjoint(full_prompt_layers(runner.model)):
        return None
    return constant, affected
