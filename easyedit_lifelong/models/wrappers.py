"""Find the model inside the wrappers of PEFT and ``torch.compile``, and the projection inside an adapter."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import EditError


def unwrap_model(model: Any) -> Any:
    """Return the Hugging Face model inside the wrappers of PEFT (``PeftModel``) and ``torch.compile``.

    Edits are made on this model: its layers have the names that hyperparameters use, and the edits are active whether
    the wrapper or the model is called. PEFT's wrapper is recognised by its method, so that peft need not be installed.
    """
    while True:
        wrapped = vars(model).get("_modules", {}).get("_orig_mod") if isinstance(model, nn.Module) else None
        if wrapped is None and hasattr(type(model), "get_base_model"):
            wrapped = model.get_base_model()
        if wrapped is None or wrapped is model:
            return model
        model = wrapped


def model_to_edit(model: Any) -> Any:
    """Return the model that edits are made on: see :func:`unwrap_model`.

    Raises:
        EditError: the model has a PEFT adapter that puts learned tokens before prompts (prompt, prefix and p-tuning).
    """
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise EditError(
            "a model with a PEFT adapter that puts learned tokens before prompts (prompt, prefix or p-tuning) can't be "
            "edited. Adapters of the weights, such as LoRA, can be used."
        )
    return unwrap_model(model)


def inner_projection(module: nn.Module) -> nn.Module:
    """Return the projection inside an adapter (LoRA); the module itself if it has no adapter."""
    while isinstance(base_layer := getattr(module, "base_layer", None), nn.Module):
        module = base_layer
    return module


def adapters_of(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the active adapters of a PEFT layer; an empty tuple for any other module."""
    active = getattr(module, "active_adapters", None)
    if not isinstance(active, (list, tuple)) or getattr(module, "base_layer", None) is None:
        return ()
    disabled = bool(getattr(module, "disable_adapters", False))
    return () if disabled else tuple(str(name) for name in active)
