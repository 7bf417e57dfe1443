"""Find a language model's blocks, final norm, output head, and projections of MLPs and attention.

The parts are found in the module tree, so that this works for model families that this package doesn't know. A part
that can't be found is None; callers then run full passes, which are slower.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from easyedit_lifelong.models.quantisation import quantised_shape
from easyedit_lifelong.models.wrappers import inner_projection, unwrap_model


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model.

    Attributes:
        blocks_path: path of the list of transformer blocks.
        blocks: the blocks, in the order in which they run.
        final_norm: the norm between the last block and the head, if found.
        head: the output projection to the vocabulary, if found.
        tied: whether the head shares its weight with the input embeddings.
    """

    blocks_path: str
    blocks: nn.ModuleList
    final_norm: nn.Module | None
    head: nn.Module | None
    tied: bool

    def block_of(self, module_path: str) -> int | None:
        """Return the index of the block that contains a module; None if the module is outside of the blocks."""
        prefix = self.blocks_path + "."
        if not module_path.startswith(prefix):
            return None
        return int(module_path[len(prefix) :].split(".")[0])


def anatomy_of(model: Any) -> Anatomy | None:
    """Return the parts of a model; None if it has no list of blocks."""
    model = unwrap_model(model)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(block) for block in module}) == 1
    ]
    if not lists:
        return None
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    # The list of blocks has the length that the config says. If there is none, take the one with the most parameters.
    candidates = [(path, blocks) for path, blocks in lists if len(blocks) == count] or lists
    path, blocks = max(candidates, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    parent = model.get_submodule(path.rpartition(".")[0])
    norms = [child for child in parent.children() if "norm" in type(child).__name__.lower()]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    head_weight = getattr(head, "weight", None)
    tied = head_weight is not None and head_weight is getattr(embeddings, "weight", None)
    return Anatomy(path, blocks, norms[-1] if norms else None, head, tied)


@dataclass(frozen=True)
class Mlp:
    """The projections of a block's MLP: their paths within the block.

    Attributes:
        inputs: projections from the model's width to the MLP's width (two in a gated MLP).
        output: projection from the MLP's width to the model's width. Its inputs are the keys k of MEMIT.
    """

    inputs: tuple[str, ...]
    output: str


def mlp_of(block: nn.Module) -> Mlp | None:
    """Return the projections of a block's MLP; None if the block doesn't have exactly one plain MLP.

    Projections are recognised by their shapes. The output projection is the one with the most inputs. The input
    projections are its siblings with the transposed shape.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for name, module in block.named_modules():
        if any(name.startswith(f"{other}.") for other in shapes):
            continue  # the module is inside a projection with an adapter: an adapter's matrix, or the inner projection
        with contextlib.suppress(TypeError):
            shapes[name] = projection_shape(module)
    if not shapes:
        return None
    output = max(shapes, key=lambda name: shapes[name][0])
    mlp_width, model_width = shapes[output]
    parent = output.rpartition(".")[0]
    inputs = tuple(
        name
        for name, shape in shapes.items()
        if shape == (model_width, mlp_width) and name.rpartition(".")[0] == parent
    )
    same_shape = [name for name, shape in shapes.items() if shape == (mlp_width, model_width)]
    return Mlp(inputs, output) if inputs and same_shape == [output] else None


def is_routed_expert(module_path: str) -> bool:
    """Return whether a module is in one of the experts of a mixture, which gets only the tokens routed to it."""
    return re.search(r"(^|\.)experts\.\d+(\.|$)", module_path) is not None


def attention_output_of(block: nn.Module, width: int) -> str | None:
    """Return the path, within a block, of the output projection of its attention; None if it isn't found.

    The attention is a child whose name says so. Its output projection is the last of its projections that return the
    model's width: queries, keys and values are registered before it, or have another width.

    Args:
        block: a transformer block.
        width: the model's width.
    """
    for child_name, child in block.named_children():
        if "attn" not in child_name.lower() and "attention" not in child_name.lower():
            continue
        found = None
        adapters: list[str] = []
        for name, module in child.named_modules(prefix=child_name):
            if any(name.startswith(f"{other}.") for other in adapters):
                continue  # inside a projection with an adapter
            with contextlib.suppress(TypeError):
                shape = projection_shape(module)
                adapters.append(name)
                found = name if shape[1] == width else found
        if found is not None:
            return found
    return None


def projection_shape(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear projection.

    Raises:
        TypeError: the module has no 2-D weight, and no quantised weight of known shape.
    """
    if (shape := quantised_shape(module)) is not None:
        return shape
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 2:
        raise TypeError(f"{type(module).__name__} is not a linear projection: it has no 2-D weight")
    inputs, outputs = weight.shape if is_transposed(module) else reversed(weight.shape)
    return int(inputs), int(outputs)


def is_transposed(module: nn.Module) -> bool:
    """Return whether a linear projection stores its weight as ``(in, out)``, as GPT-2's ``Conv1D`` does."""
    return isinstance(getattr(inner_projection(module), "nf", None), int)  # an attribute of Conv1D only
