"""Copies of hyperparameters that edit at other blocks of a model, and the stages of a search for the blocks to edit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, ModelError
from easyedit_lifelong.methods.search_space import SearchStage, Values
from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import module_path

_LAYER_FIELDS = ("layers", "inner_params")
_POSITIONS = 6
"""Number of places, evenly spread over the depth of a model, at which edits are tried first."""


def at_layer(hparams: Any, model: Any, layer: int) -> Any:
    """Return a copy of hyperparameters that edits at a layer.

    A method with one entry in ``layers`` edits this layer. One with several edits as many, around this layer, moved
    where they would exceed the model. In ``inner_params``, the number of the block in each path is replaced: by this
    layer, or, if the paths are in several blocks, so that these are around this layer.

    Raises:
        HyperParameterError: the hyperparameters have neither ``layers`` nor ``inner_params``.
        ModelError: the model's blocks aren't found, or it has no such layer.
    """
    anatomy, field = _anatomy(model), _layer_field(hparams)
    n_blocks, present = len(anatomy.blocks), getattr(hparams, field)
    if not 0 <= layer < n_blocks:
        raise ModelError(f"{model_label(model)}: has no layer {layer}; its layers are 0 to {n_blocks - 1}")
    if field == "layers":
        first = _first_around(layer, len(present), n_blocks)
        return dataclasses.replace(hparams, layers=list(range(first, first + len(present))))
    blocks = [_block_of(name, anatomy) for name in present]
    lowest, size = min(blocks), max(blocks) - min(blocks) + 1
    first = _first_around(layer, size, n_blocks)
    moved = [_moved(name, anatomy, first + block - lowest) for name, block in zip(present, blocks, strict=True)]
    return dataclasses.replace(hparams, inner_params=moved)


def layer_stages(
    blocks: Sequence[int] | None, can_edit: Callable[[Any, Any], bool] = lambda hparams, model: True
) -> list[SearchStage]:
    """Return the stages of a search that choose around which block to edit.

    Args:
        blocks: the blocks around which edits are tried; None: six that are evenly spread over the model, and then two
            beside the best of them.
        can_edit: ``can_edit(hparams, model)`` tells whether the method can edit with moved hyperparameters; the others
            are not tried.
    """

    def around(hparams: Any, model: Any, centres: Sequence[int]) -> list[Values]:
        field = _layer_field(hparams)
        moved = [copy for centre in centres if can_edit(copy := at_layer(hparams, model, centre), model)]
        return [{field: list(getattr(copy, field))} for copy in moved]

    def spread(hparams: Any, model: Any) -> list[Values]:
        if blocks is not None:
            return around(hparams, model, blocks)
        n_blocks = _number_of_blocks(model)
        return around(hparams, model, sorted({int(n_blocks * (n + 0.5) / _POSITIONS) for n in range(_POSITIONS)}))

    def beside(hparams: Any, model: Any) -> list[Values]:
        n_blocks, centre = _number_of_blocks(model), centre_of(hparams, model)
        step = n_blocks // (2 * _POSITIONS)
        return around(hparams, model, [n for n in (centre - step, centre + step) if step and 0 <= n < n_blocks])

    coarse = SearchStage("layers", _LAYER_FIELDS, spread)
    return [coarse] if blocks is not None else [coarse, SearchStage("layers, nearby", _LAYER_FIELDS, beside)]


def layer_count_stage(counts: Sequence[int]) -> SearchStage:
    """Return the stage that tries other numbers of edited blocks, with the same last block."""

    def candidates(hparams: Any, model: Any) -> list[Values]:
        last = hparams.layers[-1]
        return [{"layers": list(range(last - count + 1, last + 1))} for count in counts if count <= last + 1]

    return SearchStage("number of layers", ("layers",), candidates)


def centre_of(hparams: Any, model: Any) -> int:
    """Return the block around which hyperparameters edit: that for which :func:`at_layer` leaves them as they are.

    Raises:
        HyperParameterError: the hyperparameters have neither ``layers`` nor ``inner_params``.
        ModelError: the model's blocks aren't found.
    """
    if _layer_field(hparams) == "layers":
        return int(hparams.layers[len(hparams.layers) // 2])
    anatomy = _anatomy(model)
    blocks = [_block_of(name, anatomy) for name in hparams.inner_params]
    return min(blocks) + (max(blocks) - min(blocks) + 1) // 2


def _layer_field(hparams: Any) -> str:
    """Return the name of the field that names the edited layers.

    Raises:
        HyperParameterError: there is none.
    """
    fields = {field.name for field in dataclasses.fields(hparams)}
    field = next((name for name in _LAYER_FIELDS if name in fields), None)
    if field is None:
        raise HyperParameterError(f"{hparams.alg_name}: has neither layers nor inner_params, so no layers can be swept")
    return field


def _anatomy(model: Any) -> Anatomy:
    """Return the anatomy of a model.

    Raises:
        ModelError: its blocks aren't found.
    """
    anatomy = anatomy_of(model)
    if anatomy is None:
        raise ModelError(f"{model_label(model)}: its list of blocks isn't recognised")
    return anatomy


def _number_of_blocks(model: Any) -> int:
    """Return the number of blocks of a model."""
    return len(_anatomy(model).blocks)


def _first_around(layer: int, size: int, n_blocks: int) -> int:
    """Return the first of ``size`` blocks around a block, moved where they would exceed the model."""
    return min(max(0, layer - size // 2), max(0, n_blocks - size))


def _block_of(name: str, anatomy: Anatomy) -> int:
    """Return the number of the block that a module of ``inner_params`` is in.

    Raises:
        HyperParameterError: it is in no block.
    """
    block = anatomy.block_of(module_path(name))
    if block is None:
        raise HyperParameterError(f"inner_params: {name!r} is in no block, so its layer can't be replaced")
    return block


def _moved(name: str, anatomy: Anatomy, block: int) -> str:
    """Return the path of the same module in another block."""
    path = anatomy.blocks_path
    return re.sub(rf"^{re.escape(path)}\.\d+", f"{path}.{block}", module_path(name))
