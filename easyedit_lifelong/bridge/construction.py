"""Have EasyEdit's ``BaseEditor`` load models for our methods the way this package does.

EasyEdit's own constructor decides by substrings of the model's name which classes to load, knows
few names, and opens log files. It runs unchanged for EasyEdit's own methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from easyedit_lifelong.bridge.wrapping import wrap
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_named, model_label, prepare_tokenizer
from easyedit_lifelong.plugins import get_plugins


def wrap_constructor(editor_class: Any, entry: Callable[[EditMethod], Callable[..., Any]]) -> None:
    """Replace ``BaseEditor.__init__`` by one that knows our methods. Doing it again does nothing.

    Args:
        editor_class: EasyEdit's ``BaseEditor``.
        entry: returns a method's entry in EasyEdit's ``ALG_DICT``, making it if need be.
    """

    def construct(original: Callable[..., None], editor: Any, hparams: Any, *args: Any, **kwargs: Any) -> None:
        method = get_plugins().method_for(hparams)
        if method is None:
            original(editor, hparams, *args, **kwargs)
        else:
            _construct(editor, hparams, method)
            editor.apply_algo = entry(method)

    wrap(editor_class, "__init__", construct)


def _construct(editor: Any, hparams: Any, method: EditMethod) -> None:
    """Set what EasyEdit's methods expect of an editor. The caller's hyperparameters stay untouched.

    Raises:
        ModelError: the model can't be loaded.
        DeviceError: the device isn't there.
    """
    is_pair = isinstance(hparams.model_name, (tuple, list))
    editor.model, editor.tok = _adopt(hparams) if is_pair else load_named(hparams)
    editor.alg_name = method.name
    editor.model_name = scoring_name(editor.model, hparams.model_name)
    # Weights that accelerate has offloaded are on no device.
    devices = (parameter.device for parameter in editor.model.parameters() if parameter.device.type != "meta")
    editor.device = next(devices, torch.device("cpu"))
    editor.hparams = copy.copy(hparams)
    # Not setattr: hyperparameters may be frozen.
    named = editor.device.index if editor.device.type == "cuda" else str(editor.device)
    object.__setattr__(editor.hparams, "device", named)
    object.__setattr__(editor.hparams, "model_name", editor.model_name)


def _adopt(hparams: Any) -> tuple[Any, Any]:
    """Take a ``(model, tokenizer)`` pair; move the model only if a device is asked for."""
    model, tokenizer = hparams.model_name
    # EasyEdit's scoring pads, and counts prompt tokens as if padding were on the left.
    prepare_tokenizer(tokenizer, model)
    device = getattr(hparams, "device", None)
    if device is not None and not getattr(hparams, "model_parallel", False):
        model.to(resolve_device(device))
    return model, tokenizer


def scoring_name(model: Any, requested: Any) -> str:
    """Return the string that EasyEdit's scoring may call the model by.

    EasyEdit takes a model for a sequence-to-sequence one if its name, path included, contains
    ``t5``. The name given is kept unless it would be taken for the wrong kind.

    Args:
        model: the loaded model.
        requested: the hyperparameters' ``model_name``.
    """
    label = str(requested) if isinstance(requested, str) else model_label(model)
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if ("t5" in label.lower()) == encoder_decoder:
        return label
    return f"t5-like {type(model).__name__}" if encoder_decoder else type(model).__name__
