"""Which modules' inputs are the keys, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.errors import CovarianceError, ModelError
from easyedit_lifelong.models.anatomy import anatomy_of, mlp_of, projection_shape
from easyedit_lifelong.models.modules import find_module


def layer_modules(model: Any, layers: Sequence[int | str], template: str | None = None) -> list[str]:
    """Return the modules that layers mean: paths as they are, numbers through the template or the model's anatomy.

    Raises:
        ModelError: a layer isn't there, or its MLP's output projection can't be told.
    """
    modules = []
    for layer in layers:
        if isinstance(layer, str):
            modules.append(find_module(model, layer)[0])
        elif template is not None:
            modules.append(find_module(model, template.replace("{}", str(layer)))[0])
        else:
            modules.append(_mlp_output(model, layer))
    if not modules:
        raise CovarianceError("layers: none are given")
    return list(dict.fromkeys(modules))


def _mlp_output(model: Any, layer: int) -> str:
    anatomy = anatomy_of(model)
    if anatomy is None:
        raise ModelError(f"{type(model).__name__} has no list of blocks; give the modules' paths instead of numbers")
    if not 0 <= layer < len(anatomy.blocks):
        raise ModelError(f"{type(model).__name__} has no layer {layer}; it has 0 to {len(anatomy.blocks) - 1}")
    mlp = mlp_of(anatomy.blocks[layer])
    if mlp is None:
        raise ModelError(
            f"layer {layer} of {type(model).__name__}: its MLP's output projection can't be told; "
            "give a module template"
        )
    return f"{anatomy.blocks_path}.{layer}.{mlp.output}"


def key_sizes(model: Any, modules: Sequence[str]) -> dict[str, int]:
    """Return the key size of every module, by its path.

    Raises:
        ModelError: a module isn't there, or is no linear projection.
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
