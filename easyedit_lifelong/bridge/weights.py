"""The weights that EasyEdit's own methods rewrite: which they are, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from easyedit_lifelong.errors import ModelError

_WEIGHTS, _TEMPLATES = "weights.safetensors", "templates.json"


def rewritten_modules(hparams: Any) -> list[str]:
    """Return the modules whose weights are rewritten; EasyEdit's FT names the weight itself."""
    return [hparams.rewrite_module_tmp.format(layer).removesuffix(".weight") for layer in hparams.layers]


def rewritten(model: Any, hparams: Any) -> dict[str, Any]:
    """Return the parameters that are rewritten, by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in (f"{module}.weight" for module in rewritten_modules(hparams))}


class RewrittenWeights:
    """Keeps the edits of a method that rewrites weights: the weights, and the templates it goes on with."""

    def carries(self, model: Any) -> bool:
        """Tell whether weights of a model have been rewritten and not put back."""
        from easyedit_lifelong.bridge.context import memory_of

        return bool(memory_of(model).weights)

    def save(self, model: Any, folder: Path) -> None:
        """Write the rewritten weights, whole."""
        from safetensors.torch import save_file

        from easyedit_lifelong.bridge.context import memory_of

        memory = memory_of(model)
        parameters = dict(model.named_parameters())
        save_file({name: parameters[name].detach().contiguous() for name in memory.weights}, folder / _WEIGHTS)
        templates = [[*where, value] for where, value in memory.caches.items() if where[1] == "CONTEXT_TEMPLATES_CACHE"]
        (folder / _TEMPLATES).write_text(json.dumps(templates, ensure_ascii=False), encoding="utf-8")

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        """Put the rewritten weights into an unedited model.

        Raises:
            ModelError: they are another model's.
        """
        import torch
        from safetensors.torch import load_file

        from easyedit_lifelong.bridge.context import memory_of

        saved, weights = load_file(folder / _WEIGHTS), rewritten(model, hparams)
        templates = json.loads((folder / _TEMPLATES).read_text(encoding="utf-8"))
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        if {name: tuple(weight.shape) for name, weight in saved.items()} != shapes:
            raise ModelError(f"{folder / _WEIGHTS}: holds other weights than this model's {', '.join(weights)}")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(saved[name])
        memory = memory_of(model)
        memory.weights = list(weights)
        for module, name, value in templates:
            memory.caches[module, name] = value
