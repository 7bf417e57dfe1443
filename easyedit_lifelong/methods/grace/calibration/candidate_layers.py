"""The layers that a calibration compares: candidates for the key layer and for the answer layer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.anatomy import Anatomy, Mlp, anatomy_of, mlp_of
from easyedit_lifelong.models.model_kinds import ModelKind, kind_of
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.number_ranges import number_range

_KEY_LAYER_DEPTH = 1 / 3
"""Activations distinguish subjects best in the first third of the blocks."""

_ANSWER_LAYER_DEPTHS = (0.6, 0.68, 0.76, 0.85)
"""Activations distinguish relations best in late blocks, but a value needs blocks above it to affect the output."""

Layer = int | str
"""The index of a block, or a module's path."""


def parse_layers(text: str, option: str) -> list[Layer]:
    """Parse a list of layers, such as ``1-4,6`` or ``model.layers.2.mlp.gate_proj``.

    Args:
        text: indices or ranges of blocks, or paths of modules, separated by commas.
        option: the command-line option that the text was given for, for messages.

    Returns:
        The layers, each once.

    Raises:
        ModelError: the text is not such a list.
    """
    layers: list[Layer] = []
    for part in map(str.strip, text.split(",")):
        named: Sequence[Layer] = []
        if (blocks := re.fullmatch(r"(\d+)(?:-(\d+))?", part)) is not None:
            with contextlib.suppress(ValueError):
                named = number_range(blocks[1], blocks[2] or blocks[1])
        elif re.search(r"^[A-Za-z_][\w.\[\]]*$", part):
            named = [part]
        if not named:
            raise ModelError(f"{option}: {text!r} isn't a list of blocks such as 1-4,6, or of modules")
        layers += named
    return list(dict.fromkeys(layers))


def candidate_key_layers(model: Any, layers: Iterable[Layer] | None) -> list[str]:
    """Return the paths of the layers whose inputs are studied as keys.

    Args:
        model: a causal language model.
        layers: the given layers; None for the second block up to a third of the model's depth. For a block, its MLP's
            first input projection is taken.

    Raises:
        ModelError: the model is no causal language model or has no such layer, or a block's MLP is not recognised.
    """
    anatomy = _anatomy(model, "--layers")
    n_blocks = len(anatomy.blocks)
    if layers is None:
        first, last = min(1, n_blocks - 1), max(1, round(n_blocks * _KEY_LAYER_DEPTH))
        layers = range(first, last + 1)
    return _paths(model, anatomy, layers, "--layers", lambda mlp: mlp.inputs[0])


def candidate_answer_layers(model: Any, layers: Iterable[Layer] | None, key_layers: Sequence[str]) -> list[str]:
    """Return the paths of the layers that are studied as answer layers.

    Args:
        model: a causal language model.
        layers: the given layers; None for a few blocks between 60 % and 85 % of the model's depth. For a block, its MLP
            is taken, or the MLP's output projection where the MLP is no module.
        key_layers: the paths that :func:`candidate_key_layers` returned. Answer layers must be in later blocks.

    Raises:
        ModelError: the model is no causal language model or has no such layer, a layer is not in a later block than
            all key layers, or a block's MLP is not recognised.
    """
    anatomy = _anatomy(model, "--answer-layers")
    last_key_block = max((block for path in key_layers if (block := anatomy.block_of(path)) is not None), default=-1)
    if layers is None:
        blocks = dict.fromkeys(round(len(anatomy.blocks) * depth) for depth in _ANSWER_LAYER_DEPTHS)
        layers = [block for block in blocks if last_key_block < block < len(anatomy.blocks)]
    paths = _paths(model, anatomy, layers, "--answer-layers", lambda mlp: mlp.output.rpartition(".")[0] or mlp.output)
    for path in paths:
        block = anatomy.block_of(path)
        if block is not None and block <= last_key_block:
            raise ModelError(
                f"--answer-layers: {path} is in block {block}, but subjects may be found up to block {last_key_block} "
                "(--layers). Name layers of later blocks."
            )
    return paths


def _anatomy(model: Any, option: str) -> Anatomy:
    """Return the anatomy of a causal language model.

    Raises:
        ModelError: the model is of another kind, or its list of blocks is not recognised.
    """
    anatomy = anatomy_of(model)
    if kind_of(model) is not ModelKind.CAUSAL:
        raise ModelError(f"{type(model).__name__} is no causal language model; edits can't be found by their subjects")
    if anatomy is None:
        raise ModelError(f"{option}: {type(model).__name__} has no list of blocks that calibrate recognises")
    return anatomy


def _paths(model: Any, anatomy: Anatomy, layers: Iterable[Layer], option: str, part: Callable[[Mlp], str]) -> list[str]:
    """Return the layers' paths, each once.

    Args:
        model: the model.
        anatomy: its anatomy.
        layers: indices of blocks, or paths of modules.
        option: the command-line option that names layers, for messages.
        part: returns the path, within a block, of the part of its MLP that stands for the block.

    Raises:
        ModelError: there is no such layer, or no layer at all, or a block's MLP is not recognised.
    """
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
                f"{option}: the MLP of block {layer} of {name} is not recognised. Name modules instead of blocks, such "
                f"as {anatomy.blocks_path}.{layer}.…"
            )
        else:
            paths.append(f"{anatomy.blocks_path}.{layer}.{part(mlp)}")
    if not paths:
        raise ModelError(f"{option}: {name} has too few blocks for the default layers. Name layers with {option}.")
    return list(dict.fromkeys(paths))
