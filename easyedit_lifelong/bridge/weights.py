"""The weights that EasyEdit's own methods edit: find them, save them, load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.errors import ModelError

_WEIGHTS, _TEMPLATES = "weights.safetensors", "templates.json"


def edited_modules(hparams: Any) -> list[str]:
    """Return the paths of the edited modules. EasyEdit's FT gives the path of the weight; ``.weight`` is removed."""
    return [hparams.rewrite_module_tmp.format(layer).removesuffix(".weight") for layer in hparams.layers]


def edited_weights(model: Any, hparams: Any) -> dict[str, Any]:
    """Return the edited parameters by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in (f"{module}.weight" for module in edited_modules(hparams))}


class EditedWeights:
    """Saves and loads the edits of EasyEdit's methods: the edited weights, and the context templates of later edits."""

    def carries(self, model: Any) -> bool:
        """Return whether a model has edited weights that were not rolled back."""
        return bool(model_state_of(model).weights)

    def save(self, model: Any, folder: Path) -> None:
        """Write the edited weights and the context templates."""
        model_state, parameters = model_state_of(model), dict(model.named_parameters())
        save_file({name: parameters[name].detach().contiguous() for name in model_state.weights}, folder / _WEIGHTS)
        templates = [[*key, value] for key, value in model_state.caches.items() if key[1] == "CONTEXT_TEMPLATES_CACHE"]
        (folder / _TEMPLATES).write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Copy saved weights into an unedited model.

        Raises:
            ModelError: the saved weights have other names or shapes than the model's.
        """
        saved, weights = load_file(folder / _WEIGHTS), edited_weights(model, hparams)
        templates = json.loads((folder / _TEMPLATES).read_text(encoding="utf-8"))
        shapes = {name: weight.shape for name, weight in weights.items()}
        if {name: weight.shape for name, weight in saved.items()} != shapes:
            raise ModelError(f"{folder / _WEIGHTS}: holds other weights than this model's {', '.join(weights)}")
        copy_values(saved, weights)
        model_state = model_state_of(model)
        model_state.weights = list(weights)
        model_state.caches.update({(module, name): value for module, name, value in templates})


@torch.no_grad()
def copy_values(values: dict[str, Any], weights: dict[str, Any]) -> None:
    """Copy values into parameters of the same name."""
    for name, weight in weights.items():
        weight.copy_(values[name])
