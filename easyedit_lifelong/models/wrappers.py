"""Find the model inside what others put around it: PEFT's adapters, ``torch.compile``."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import EditError


def bare_model(model: Any) -> Any:
    """Return the Hugging Face model inside PEFT's ``PeftModel`` and ``torch.compile``'s wrapper.

    Edits go there: the layers have the names that hyperparameters give them, and the edits act whichever of
    the two is called. PEFT is told by its method, so that nobody needs it who doesn't have it.
    """
    while True:
        inside = vars(model).get("_modules", {}).get("_orig_mod") if isinstance(model, nn.Module) else None
        if inside is None and hasattr(type(model), "get_base_model"):
            inside = model.get_base_model()
        if inside is None or inside is model:
            return model
        model = inside


def model_to_edit(model: Any) -> Any:
    """Return the model that edits go on: see :func:`bare_model`.

    Raises:
        EditError: PEFT puts learned tokens in front of its prompts (prompt, prefix and p-tuning).
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise EditError(
            "a model whose prompts PEFT begins with learned tokens (prompt, prefix or p-tuning) can't be edited; "
            "adapters of the weights (LoRA and its like) can"
        )
    return bare_model(model)


def inner_projection(module: nn.Module) -> nn.Module:
    """Return the projection that an adapter (LoRA) is wrapped around; the module itself if none is."""
    while isinstance(inside := getattr(module, "base_layer", None), nn.Module):
        module = inside
    return module


def adapters_of(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the adapters that act on a module, as PEFT's layers tell them; none if none do."""
    active = getattr(module, "active_adapters", None)
    if not isinstance(active, (list, tuple)) or getattr(module, "base_layer", None) is None:
        return ()
    off = bool(getattr(module, "disable_adapters", False))
    return () if off else tuple(str(name) for name in active)
