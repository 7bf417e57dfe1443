"""Where a language model keeps its blocks, its final norm and its output head.

Derived from the module tree, so that it holds for families this package has never heard of. What
can't be told is None, and whoever needs it takes the slow road through the whole model instead.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.models.wrappers import bare_model, inner_projection


@dataclass(frozen=True)
class Anatomy:
    """A model's parts.

    Attributes:
        blocks_path: path of the list of transformer blocks.
        blocks: the blocks, in the order they run.
        final_norm: the norm between the last block and the head.
        head: the output projection (to the vocabulary).
        tied: whether the head shares its weight with the input embeddings.
    """

    blocks_path: str
    blocks: nn.ModuleList
    final_norm: nn.Module | None
    head: nn.Module | None
    tied: bool

    def block_of(self, module_path: str) -> int | None:
        """Return the index of the block that holds a module, or None if none does."""
        prefix = self.blocks_path + "."
        if not module_path.startswith(prefix):
            return None
        return int(module_path[len(prefix) :].split(".")[0])


def anatomy_of(model: Any) -> Anatomy | None:
    """Return the model's parts, or None if it has no list of blocks."""
    model = bare_model(model)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        return None
    layers = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    # The stack is as long as the config says; failing that, it is the biggest list there is.
    stacks = [item for item in lists if len(item[1]) == layers] or lists
    path, blocks = max(stacks, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    parent = model.get_submodule(path.rpartition(".")[0])
    norms = [child for child in parent.children() if "norm" in type(child).__name__.lower()]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    weights = [getattr(module, "weight", None) for module in (head, embeddings)]
    tied = weights[0] is not None and weights[0] is weights[1]
    return Anatomy(path, blocks, norms[-1] if norms else None, head, tied)


@dataclass(frozen=True)
class Mlp:
    """The projections of a block's MLP, by their names in the block.

    Attributes:
        inputs: from the model's width to the MLP's (two of them where the MLP is gated).
        output: from the MLP's width back to the model's; its inputs are MEMIT's keys.
    """

    inputs: tuple[str, ...]
    output: str


def mlp_of(block: nn.Module) -> Mlp | None:
    """Return a block's MLP projections, or None where there isn't one plain MLP.

    They are told by their shapes: of the projections back to the block's width, the MLP's is the
    widest, and its partners beside it have that width for output.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in block.named_modules():
        if any(name.startswith(f"{other}.") for other in shapes):
            continue  # an adapter's matrices, or the projection that they are on
        with contextlib.suppress(TypeError):
            shapes[name] = projection_shape(module)
    if not shapes:
        return None
    output = max(shapes, key=lambda name: shapes[name][0])
    width, model_width = shapes[output]
    beside = output.rpartition(".")[0]
    inputs = tuple(
        name for name, shape in shapes.items() if shape == (model_width, width) and name.rpartition(".")[0] == beside
    )
    rivals = [name for name, shape in shapes.items() if shape == (width, model_width)]
    return Mlp(inputs, output) if inputs and rivals == [output] else None


def projection_shape(module: nn.Module) -> tuple[int, int]:
    """Return a linear projection's (inputs, outputs), whichever way round it stores its weight.

    ``nn.Linear`` keeps ``(out, in)``; GPT-2's ``Conv1D`` keeps ``(in, out)`` and says so in ``nf``.

    Raises:
        TypeError: the module has no 2-D weight.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise TypeError(f"{type(module).__name__} is not a linear projection: it has no 2-D weight")
    inputs, outputs = weight.shape if is_transposed(module) else reversed(weight.shape)
    return int(inputs), int(outputs)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear projection keeps its weight as ``(in, out)``."""
    return isinstance(getattr(inner_projection(module), "nf", None), int)
