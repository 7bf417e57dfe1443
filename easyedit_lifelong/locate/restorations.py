"""Restorations: which states of a corrupted run are set to other values at one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["state", "mlp", "attention"]
"""What is restored: the output of a block, or the outputs of the MLPs or of the attention in a window of blocks."""

Module = Literal["mlp", "attention"]

KINDS: tuple[Kind, ...] = ("state", "mlp", "attention")
MODULES: tuple[Module, ...] = ("mlp", "attention")


@dataclass(frozen=True)
class Restoration:
    """Values of a corrupted run that are replaced at one token.

    Attributes:
        token: index of the token.
        first: the first block whose computation differs from the corrupted run. Its input can be restored.
        restore_input: whether the token's input of block ``first`` has its clean value.
        module: the modules whose outputs are replaced; None for none.
        blocks: the blocks whose modules are replaced.
        frozen: whether the modules' outputs have their corrupted values. Otherwise, they have their clean values.
    """

    token: int
    first: int
    restore_input: bool = False
    module: Module | None = None
    blocks: range = range(0)
    frozen: bool = False


def restored_state(token: int, layer: int) -> Restoration:
    """Restore the output of a block."""
    return Restoration(token, layer + 1, restore_input=True)


def restored_window(token: int, layer: int, module: Module, window: int, n_layers: int) -> Restoration:
    """Restore the outputs of the modules in a window of blocks around a layer, cut off at both ends of the model.

    As in ROME's code, a window of even size has one block more below its centre than above it.
    """
    blocks = range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2))
    return Restoration(token, blocks[0], module=module, blocks=blocks)


def severed_state(token: int, layer: int, module: Module, n_layers: int) -> Restoration:
    """Restore the output of a block, and freeze the outputs of the modules above it at their corrupted values.

    The effect of the restored state then does not pass through these modules at this token.
    """
    blocks = range(layer + 1, n_layers)
    return Restoration(token, layer + 1, restore_input=True, module=module, blocks=blocks, frozen=True)
