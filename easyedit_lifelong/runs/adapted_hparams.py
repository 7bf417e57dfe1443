"""Hyperparameters for another model: its modules, and what follows from its size, replace those of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import HyperParameterError, ModelError
from easyedit_lifelong.models.anatomy import Anatomy, Mlp, anatomy_of, attention_output_of, mlp_of, projection_shape
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.modules import module_path
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.runs.hyperparameter_files import shipped_hparams

_SMALL, _LARGE = "smollm2-135m", "llama3-8b"
_LARGE_FROM = 1_500_000_000
"""From this number of parameters on, the file of a large model is the template."""

_TOKENS_PER_DIMENSION = 10
"""Tokens of second moments for each dimension of the keys."""


def template_file(method: str, model: Any, setting: str) -> Path:
    """Return the file of a method that is shipped for a model of similar size.

    Args:
        method: the method's name.
        model: the model.
        setting: what needs the file, for messages.

    Raises:
        HyperParameterError: no file of the method ships for either size.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    order = (_LARGE, _SMALL) if size >= _LARGE_FROM else (_SMALL, _LARGE)
    return _first_shipped(method, order, setting)


def small_template_file(method: str, setting: str) -> Path:
    """Return the file of a method that is shipped for a small model; see :func:`template_file`."""
    return _first_shipped(method, (_SMALL, _LARGE), setting)


def _first_shipped(method: str, models: Sequence[str], setting: str) -> Path:
    """Return the file of a method for the first of two models for which one ships.

    Raises:
        HyperParameterError: none ships for either.
    """
    try:
        return shipped_hparams(method, models[0], setting)
    except HyperParameterError:
        return shipped_hparams(method, models[1], setting)


def modules_for_model(template: Mapping[str, Any], model: Any, setting: str) -> dict[str, Any]:
    """Return hyperparameters with the modules of a model, and what follows from its size, but the template's layers.

    Args:
        template: the hyperparameters of another model.
        model: the model.
        setting: what needs the modules, for messages.

    Raises:
        ModelError: the model's blocks or MLPs aren't found.
    """
    anatomy, mlp = _blocks_and_mlp(model, setting)
    width = projection_shape(anatomy.blocks[0].get_submodule(mlp.output))
    values = {
        "model_name": model_label(model),
        "v_loss_layer": len(anatomy.blocks) - 1,
        "rewrite_module_tmp": f"{anatomy.blocks_path}.{{}}.{mlp.output}",
        "layer_module_tmp": f"{anatomy.blocks_path}.{{}}",
        "mlp_module_tmp": f"{anatomy.blocks_path}.{{}}.{mlp.output.rpartition('.')[0] or mlp.output}",
        **_other_modules(model, anatomy, width[1]),
        "mom2_n_tokens": _TOKENS_PER_DIMENSION * width[0],
    }
    return {**template, **{name: value for name, value in values.items() if template.get(name) is not None}}


def adapted_hparams(template: Mapping[str, Any], model: Any, setting: str) -> dict[str, Any]:
    """Return hyperparameters for a model, with edited layers at the relative depth of the template's.

    The depth of the template's model is known if its ``v_loss_layer`` is: this is the last block. Otherwise the layers
    are in the middle of the model.

    Args:
        template: the hyperparameters of another model.
        model: the model.
        setting: what needs them, for messages.

    Raises:
        ModelError: the model's blocks or MLPs aren't found.
    """
    anatomy, mlp = _blocks_and_mlp(model, setting)
    n_blocks, last = len(anatomy.blocks), template.get("v_loss_layer")
    scale = None if last is None else n_blocks / (last + 1)

    def first_of(first: int, size: int) -> int:
        """Return the first of ``size`` blocks that correspond to those of the template from ``first`` on."""
        begin = n_blocks // 2 - size // 2 if scale is None else round((first + size / 2) * scale - size / 2)
        return min(max(0, begin), max(0, n_blocks - size))

    values = modules_for_model(template, model, setting)
    if layers := template.get("layers"):
        size = min(len(layers), n_blocks)
        begin = first_of(layers[0], size)
        values["layers"] = list(range(begin, begin + size))
    places = [_block_and_module(name) for name in template.get("inner_params", ())]
    if places and None not in places:
        named = [place for place in places if place is not None]
        lowest = min(block for block, _ in named)
        size = min(max(block for block, _ in named) - lowest + 1, n_blocks)
        begin = first_of(lowest, size)
        moved = [
            _in_block(anatomy, begin + min(block - lowest, size - 1), module, mlp.output) for block, module in named
        ]
        values["inner_params"] = list(dict.fromkeys(moved))
    scope = _block_and_module(template.get("scope_layer") or "")
    if scope is not None:
        block = min(first_of(scope[0], 1), values["layers"][0])
        values["scope_layer"] = _in_block(anatomy, block, scope[1], mlp.inputs[0])
    return values


def _blocks_and_mlp(model: Any, setting: str) -> tuple[Anatomy, Mlp]:
    """Return the anatomy of a model, and the projections of its first MLP.

    Raises:
        ModelError: they aren't found.
    """
    anatomy = anatomy_of(model)
    mlp = None if anatomy is None else mlp_of(anatomy.blocks[0])
    if anatomy is None or mlp is None:
        label = model_label(model)
        raise ModelError(f"{label}: the MLPs of its blocks aren't found, so {setting} can't name the modules to edit")
    return anatomy, mlp


def _block_and_module(name: str) -> tuple[int, str] | None:
    """Return the number of the block in the path of a module, and the path within the block; None without a block."""
    match = re.search(r"\.(\d+)\.(.+)$", module_path(name))
    return (int(match[1]), match[2]) if match else None


def _in_block(anatomy: Anatomy, block: int, module: str, default: str) -> str:
    """Return the path of a module in a block; of the default, if the block has no such module."""
    names = {name for name, _ in anatomy.blocks[block].named_modules()}
    return f"{anatomy.blocks_path}.{block}.{module if module in names else default}"


def _other_modules(model: Any, anatomy: Anatomy, width: int) -> dict[str, str]:
    """Return the paths of the attention, the final norm and the head, as far as they are found."""
    found = {}
    attention = attention_output_of(anatomy.blocks[0], width)
    if attention is not None:
        found["attn_module_tmp"] = f"{anatomy.blocks_path}.{{}}.{attention.rpartition('.')[0] or attention}"
    paths = {module: path for path, module in unwrap_model(model).named_modules()}
    for name, module in (("ln_f_module", anatomy.final_norm), ("lm_head_module", anatomy.head)):
        if module is not None:
            found[name] = paths[module]
    return found
