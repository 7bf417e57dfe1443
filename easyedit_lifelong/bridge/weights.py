"""The weights that EasyEdit's own methods edit: find them, save them, load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong.bridge.method_context import model_state_of
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.modules import module_path
from easyedit_lifelong.parsing import parse_json

_WEIGHTS, _TEMPLATES, _STATE = "weights.safetensors", "templates.json", "state.safetensors"


def base_of(hparams: Any) -> Any:
    """Return the hyperparameters of the method that computes the edits: for SimIE its base method's, else the same."""
    return getattr(hparams, "_base_hparams", None) or hparams


def edited_modules(hparams: Any) -> list[str]:
    """Return the paths of the edited modules.

    A method names them by a template and layers, by several templates (PMET), or one by one (``inner_params``). Where
    it gives the path of the weight (FT), ``.weight`` is removed.
    """
    hparams = base_of(hparams)
    if hasattr(hparams, "inner_params"):
        return [module_path(name) for name in hparams.inner_params]
    templates = getattr(hparams, "rewrite_module_tmps", None) or [hparams.rewrite_module_tmp]
    return [module_path(template.format(layer)) for layer in hparams.layers for template in templates]


def edited_weights(model: Any, hparams: Any) -> dict[str, Any]:
    """Return the edited parameters by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in (f"{module}.weight" for module in edited_modules(hparams))}


class EditedWeights:
    """Saves and loads the edits of EasyEdit's methods, and what later edits depend on.

    These are the edited weights, the context templates, and the tensors that a method keeps between batches.
    """

    def carries(self, model: Any) -> bool:
        """Return whether a model has edited weights that were not rolled back."""
        return bool(model_state_of(model).weights)

    def save(self, model: Any, folder: Path) -> None:
        """Write the edited weights, the context templates and the method's tensors."""
        model_state, parameters = model_state_of(model), dict(model.named_parameters())
        save_file({name: parameters[name].detach().contiguous() for name in model_state.weights}, folder / _WEIGHTS)
        templates = [[*key, value] for key, value in model_state.caches.items() if key[1] == "CONTEXT_TEMPLATES_CACHE"]
        (folder / _TEMPLATES).write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")
        if model_state.tensors:
            save_file(model_state.tensors, folder / _STATE)

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Copy saved weights into an unedited model.

        Raises:
            ModelError: the saved weights have other names or shapes than the model's.
        """
        saved, weights = load_file(folder / _WEIGHTS), edited_weights(model, hparams)
        templates = parse_json((folder / _TEMPLATES).read_text(encoding="utf-8"))
        tensors = load_file(folder / _STATE) if (folder / _STATE).exists() else {}
        shapes = {name: weight.shape for name, weight in weights.items()}
        if {name: weight.shape for name, weight in saved.items()} != shapes:
            raise ModelError(f"{folder / _WEIGHTS}: holds other weights than this model's {', '.join(weights)}")
        copy_values(saved, weights)
        model_state = model_state_of(model)
        model_state.weights, model_state.tensors = list(weights), tensors
        model_state.caches.update({(module, name): value for module, name, value in templates})


@torch.no_grad()
def copy_values(values: dict[str, Any], weights: dict[str, Any]) -> None:
    """Copy values into parameters of the same name."""
    for name, weight in weights.items():
        weight.copy_(values[name])
