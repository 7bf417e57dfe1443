"""Find a module of a model by its name in a hyperparameter file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from easyedit_lifelong.errors import ModelError, did_you_mean
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.plurals import counted

_BRACKET = re.compile(r"\[(\d+)\]")


def module_path(name: str) -> str:
    """Return the dotted path of the module that the name of a parameter or module refers to.

    The name can have either of EasyEdit's spellings: ``transformer.h[35].mlp.c_fc.weight`` or
    ``transformer.h.35.mlp.c_fc``. A trailing ``.weight`` or ``.bias`` is removed.
    """
    path = _BRACKET.sub(r".\1", name.strip())
    return re.sub(r"\.(weight|bias)$", "", path)


def find_module(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the path and the module that a name refers to.

    Names are those of the model without the wrappers of PEFT or ``torch.compile``. A projection with adapters is found
    with its adapters, so that its output includes theirs.

    Args:
        model: any module.
        name: dotted or bracketed name of a module or of its weight.

    Raises:
        ModelError: the model has no such module; the message says which part of the name exists and suggests the
            closest name.
    """
    model, path = unwrap_model(model), module_path(name)
    modules = dict(model.named_modules())
    if not path:
        raise ModelError(f"{name!r} names no layer. Give the path of a module of {type(model).__name__}.")
    if path in modules:
        return path, modules[path]
    parent, _, weight_name = path.rpartition(".")
    weight = getattr(modules.get(parent), weight_name, None)
    if isinstance(weight, nn.Parameter):
        raise ModelError(
            f"{type(model).__name__} has no layer {name!r}: it is a weight of {parent!r}, of shape "
            f"{tuple(weight.shape)}, which has no inputs and outputs (experts share such a weight). Name a layer, "
            "such as the output projection of attention."
        )
    owner = type(model).__name__
    if (valid := _valid_numbers(modules, path)) is not None:
        raise ModelError(f"{owner} has no layer {name!r}: {valid}.")
    raise ModelError(f"{owner} has no layer {name!r}: {_missing_part(modules, path)}.{did_you_mean(path, modules)}")


def still_runs(model: nn.Module, path: str, module: nn.Module) -> bool:
    """Return whether a model runs a module at this path: it has not been replaced, but adapters may be around it."""
    try:
        current: object = unwrap_model(model).get_submodule(path)
    except AttributeError:
        return False
    return contains_layer(current, module)


def contains_layer(current: object, layer: nn.Module) -> bool:
    """Return whether a module is a layer, or PEFT's adapter around it, which runs the layer."""
    while current is not layer:
        current = getattr(current, "base_layer", None)
        if not isinstance(current, nn.Module):
            return False
    return True


def _valid_numbers(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """Return the numbers with which a path names a module; None if its names, not only a number, are wrong.

    Args:
        modules: the modules of a model by path.
        path: the path of no module.
    """
    parts = path.split(".")
    for position in (position for position, part in enumerate(parts) if part.isdigit()):
        parent = ".".join(parts[:position])
        siblings = [name for name, _ in modules[parent].named_children()] if parent in modules else []
        valid = [name for name in siblings if ".".join([*parts[:position], name, *parts[position + 1 :]]) in modules]
        if valid:
            return f"{parent!r} has {counted(len(siblings), 'layer')}; valid numbers in this name: {_list_names(valid)}"
    return None


def _missing_part(modules: Mapping[str, nn.Module], path: str) -> str:
    """Return a sentence that says which part of a path doesn't exist, and what its parent has instead.

    Args:
        modules: the modules of a model by path; the model itself has the path "".
        path: the path of no module.
    """
    parts = path.split(".")
    known = len(parts) - 1
    while known and ".".join(parts[:known]) not in modules:
        known -= 1
    parent = ".".join(parts[:known])
    children = [child for child, _ in modules[parent].named_children()]
    owner = repr(parent) if parent else "the model"
    return f"{owner} has no {parts[known]!r}; it has {_list_names(children)}"


def _list_names(children: list[str]) -> str:
    """Return names of child modules as text: a range for consecutive numbers, a list for other names."""
    if len(children) > 2 and all(child.isdigit() for child in children):
        first, last = children[0], children[-1]
        if int(last) - int(first) == len(children) - 1:
            return f"{first} to {last}"
    return ", ".join(children) or "no layers inside"
