"""The layers that a calibration compares: where subjects can be found, and where edits can answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.anatomy import Anatomy, Mlp, anatomy_of, mlp_of
from easyedit_lifelong.models.kinds import Kind, kind_of
from easyedit_lifelong.models.modules import find_module

_FINDING_DEPTH = 1 / 3
_ANSWERING_DEPTHS = (0.6, 0.68, 0.76, 0.85)
"""The first third of the blocks tells subjects apart. What a prompt asks about shows in late blocks, but a value needs
some blocks above it before the model outputs it."""

Layer = int | str
"""The number of a block, or a module's path."""


def parse_layers(text: str, option: str) -> list[Layer]:
    """Return the layers that ``1-4,6`` or ``model.layers.2.mlp.gate_proj`` means.

    Args:
        text: the text.
        option: the command's option that holds it, for messages.

    Raises:
        ModelError: it means none.
    """
    layers: list[Layer] = []
    for part in map(str.strip, text.split(",")):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        meant: Sequence[Layer] = re.findall(r"^[A-Za-z_][\w.\[\]]*$", part)
        if span is not None:
            meant = range(int(span[1]), int(span[2] or span[1]) + 1)
        if not meant:
            raise ModelError(f"{option}: {text!r} isn't a list of blocks such as 1-4,6, or of modules")
        layers += meant
    return list(dict.fromkeys(layers))


def finding_layers(model: Any, layers: Iterable[Layer] | None) -> list[str]:
    """Return the paths of the projections among whose inputs subjects can be found.

    Args:
        model: causal language model.
        layers: the given layers; None for the blocks from the second to a third of the model. A block stands for the
            projection that its MLP's input goes into.

    Raises:
        ModelError: there is no such layer, or a block's MLP is not recognised.
    """
    anatomy = _anatomy(model, "--layers")
    count = len(anatomy.blocks)
    if layers is None:
        layers = range(min(1, count - 1), max(1, round(count * _FINDING_DEPTH)) + 1)
    return _paths(model, anatomy, layers, "--layers", lambda mlp: mlp.inputs[0])


def answering_layers(model: Any, layers: Iterable[Layer] | None, finding: Sequence[str]) -> list[str]:
    """Return the paths of the modules that can answer.

    Args:
        model: causal language model.
        layers: the given layers; None for a few blocks between 60 % and 85 % of the model's depth. A block stands for
            its MLP, or the MLP's output projection where the MLP is no module.
        finding: the paths of :func:`finding_layers`, which come before.

    Raises:
        ModelError: there is no such layer, one does not come after all of ``finding``, or a block's MLP is not
            recognised.
    """
    anatomy = _anatomy(model, "--answer-layers")
    lowest = max((block for path in finding if (block := anatomy.block_of(path)) is not None), default=-1)
    if layers is None:
        blocks = dict.fromkeys(round(len(anatomy.blocks) * depth) for depth in _ANSWERING_DEPTHS)
        layers = [block for block in blocks if lowest < block < len(anatomy.blocks)]
    paths = _paths(model, anatomy, layers, "--answer-layers", lambda mlp: mlp.output.rpartition(".")[0] or mlp.output)
    for path in paths:
        block = anatomy.block_of(path)
        if block is not None and block <= lowest:
            raise ModelError(
                f"--answer-layers: {path} is in block {block}, but subjects may be found up to block {lowest} "
                "(--layers); name later ones"
            )
    return paths


def _anatomy(model: Any, option: str) -> Anatomy:
    anatomy = anatomy_of(model)
    if kind_of(model) is not Kind.CAUSAL:
        raise ModelError(f"{type(model).__name__} is no causal language model; edits can't be found by their subjects")
    if anatomy is None:
        raise ModelError(f"{option}: {type(model).__name__} has no list of blocks; there is nothing to calibrate")
    return anatomy


def _paths(model: Any, anatomy: Anatomy, layers: Iterable[Layer], option: str, part: Callable[[Mlp], str]) -> list[str]:
    """Return the layers' paths, each once; of a block, the path of a part of its MLP."""
    paths, name = [], type(model).__name__
    for layer in layers:
        if isinstance(layer, str):
            try:
                paths.append(find_module(model, layer)[0])
            except ModelError as error:
                raise ModelError(f"{option}: {error}") from None
        elif layer >= len(anatomy.blocks):
            raise ModelError(f"{option}: {name} has no block {layer}; it has 0 to {len(anatomy.blocks) - 1}")
        elif (mlp := mlp_of(anatomy.blocks[layer])) is None:
            raise ModelError(
                f"{option}: the MLP of block {layer} of {name} can't be told; name modules instead of blocks, such as "
                f"{anatomy.blocks_path}.{layer}.…"
            )
        else:
            paths.append(f"{anatomy.blocks_path}.{layer}.{part(mlp)}")
    if not paths:
        raise ModelError(f"{option}: {name} has too few blocks to choose from; name some")
    return list(dict.fromkeys(paths))
