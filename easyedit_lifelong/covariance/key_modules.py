"""Find the modules whose inputs are the keys, and the size of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.errors import CovarianceError, ModelError
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of, projection_shape
from easyedit_lifelong.models.modules import find_module


def layer_modules(model: Any, layers: Sequence[int | str], template: str | None = None) -> list[str]:
    """Return the paths of the modules that layers refer to, each once.

    Args:
        model: the model.
        layers: paths of modules, or indices of blocks.
        template: path of the module in a block, with ``{}`` for the index; None for the MLP's output projection.

    Raises:
        CovarianceError: ``layers`` is empty.
        ModelError: the model has no such layer, or the output projection of its MLP can't be found.
    """
    modules = []
    for layer in layers:
        if isinstance(layer, str):
            modules.append(find_module(model, layer)[0])
        elif template is not None:
            modules.append(find_module(model, template.replace("{}", str(layer)))[0])
        else:
            modules.append(_mlp_output_path(model, layer))
    if not modules:
        raise CovarianceError("layers: none are given")
    return list(dict.fromkeys(modules))


def _mlp_output_path(model: Any, layer: int) -> str:
    """Return the path of the MLP's output projection in a block."""
    anatomy = anatomy_of(model)
    if anatomy is None:
        raise ModelError(f"{type(model).__name__} has no list of blocks. Give paths of modules instead of numbers.")
    if not 0 <= layer < len(anatomy.blocks):
        raise ModelError(f"{type(model).__name__} has no layer {layer}; it has 0 to {len(anatomy.blocks) - 1}")
    mlp = mlp_of(anatomy.blocks[layer])
    if mlp is None:
        raise ModelError(
            f"layer {layer} of {type(model).__name__}: the output projection of its MLP can't be found. "
            "Give a module template."
        )
    return f"{anatomy.blocks_path}.{layer}.{mlp.output}"


def key_sizes(model: Any, modules: Sequence[str]) -> dict[str, int]:
    """Return the key size of every module, by path.

    Raises:
        CovarianceError: ``modules`` is empty.
        ModelError: the model has no such module, or the module is no linear projection.
    """
    sizes = {}
    for name in modules:
        path, module = find_module(model, name)
        try:
            sizes[path] = projection_shape(module)[0]
        except TypeError as error:
            raise ModelError(f"{path}: {error}") from error
    if not sizes:
        raise CovarianceError("modules: none are given")
    return sizes
