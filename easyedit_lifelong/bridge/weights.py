"""The weights that EasyEdit's own methods edit: which they are, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong.bridge.context import memory_of
from easyedit_lifelong.errors import ModelError

_WEIGHTS, _TEMPLATES = "weights.safetensors", "templates.json"


def edited_modules(hparams: Any) -> list[str]:
    """Return the modules whose weights are edited; EasyEdit's FT names the weight itself."""
    return [hparams.rewrite_module_tmp.format(layer).removesuffix(".weight") for layer in hparams.layers]


def edited_weights(model: Any, hparams: Any) -> dict[str, Any]:
    """Return the parameters that are edited, by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in (f"{module}.weight" for module in edited_modules(hparams))}


class WeightKeeper:
    """Keeps the edits of a method that edits weights: the weights, and the templates that later edits use."""

    def carries(self, model: Any) -> bool:
        """Tell whether weights of a model have been edited and not put back."""
        return bool(memory_of(model).weights)

    def save(self, model: Any, folder: Path) -> None:
        """Write the edited weights, whole."""
        memory, parameters = memory_of(model), dict(model.named_parameters())
        save_file({name: parameters[name].detach().contiguous() for name in memory.weights}, folder / _WEIGHTS)
        templates = [[*where, value] for where, value in memory.caches.items() if where[1] == "CONTEXT_TEMPLATES_CACHE"]
        (folder / _TEMPLATES).write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Put the edited weights into an unedited model.

        Raises:
            ModelError: they are another model's.
        """
        saved, weights = load_file(folder / _WEIGHTS), edited_weights(model, hparams)
        templates = json.loads((folder / _TEMPLATES).read_text(encoding="utf-8"))
        shapes = {name: weight.shape for name, weight in weights.items()}
        if {name: weight.shape for name, weight in saved.items()} != shapes:
            raise ModelError(f"{folder / _WEIGHTS}: holds other weights than this model's {', '.join(weights)}")
        put_back(weights, saved)
        memory = memory_of(model)
        memory.weights = list(weights)
        memory.caches.update({(module, name): value for module, name, value in templates})


@torch.no_grad()
def put_back(weights: dict[str, Any], saved: dict[str, Any]) -> None:
    """Have parameters hold other values again, by name."""
    for name, weight in weights.items():
        weight.copy_(saved[name])
