"""Find a module of a model by the name that a hyperparameter file gives it."""

from __future__ import annotations

import re

from torch import nn

from easyedit_lifelong.errors import ModelError, did_you_mean
from easyedit_lifelong.models.wrappers import bare_model

_BRACKET = re.compile(r"\[(\d+)\]")


def module_path(name: str) -> str:
    """Return the dotted path of the module that a parameter or module name points to.

    Both of EasyEdit's spellings are understood: ``transformer.h[35].mlp.c_fc.weight`` and
    ``transformer.h.35.mlp.c_fc``. GRACE edits layers, so a trailing ``.weight`` or ``.bias`` goes.
    """
    path = _BRACKET.sub(r".\1", name.strip())
    return re.sub(r"\.(weight|bias)$", "", path)


def find_module(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """Return the path and the module that a name points to.

    Names are those of the model itself, whatever PEFT or ``torch.compile`` has put around it. A projection
    that adapters have been put on is found with them, so that what they add is seen.

    Args:
        model: any module.
        name: dotted or bracketed name of a module or of its weight.

    Raises:
        ModelError: there is no such module; the message says how far the name fits and suggests
            the closest one.
    """
    model, path = bare_model(model), module_path(name)
    modules = dict(model.named_modules())
    if path and path in modules:
        return path, modules[path]
    parts = path.split(".")
    fits = next((".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in modules), "")
    children = [child for child, _ in (modules[fits] if fits else model).named_children()]
    what = repr(fits) if fits else "the model"
    where = f"{what} has no {parts[len(fits.split('.')) if fits else 0]!r}; it has {_shorten(children)}"
    raise ModelError(f"{type(model).__name__} has no layer {name!r}: {where}.{did_you_mean(path, modules)}")


def _shorten(children: list[str]) -> str:
    if len(children) > 2 and all(child.isdigit() for child in children):
        return f"{children[0]} to {children[-1]}"
    return ", ".join(children) or "no layers inside"
