"""Have EasyEdit's ``BaseEditor`` load models for our methods the way this package does.

EasyEdit's own constructor decides by substrings of the model's name which classes to load, knows
few names, and opens log files. It runs unchanged for EasyEdit's own methods.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from easyedit_lifelong.methods.base import EditMethod

_MARK = "_easyedit_lifelong"


def wrap(editor_class: Any, entry: Callable[[EditMethod], Callable[..., Any]]) -> None:
    """Replace ``BaseEditor.__init__`` by one that knows our methods. Doing it again does nothing.

    Args:
        editor_class: EasyEdit's ``BaseEditor``.
        entry: returns a method's entry in EasyEdit's ``ALG_DICT``, making it if need be.
    """
    original = editor_class.__init__
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def __init__(self: Any, hparams: Any, *args: Any, **kwargs: Any) -> None:
        from easyedit_lifelong.plugins import get_plugins

        method = get_plugins().method_for(hparams)
        if method is None:
            original(self, hparams, *args, **kwargs)
        else:
            _construct(self, hparams, method)
            self.apply_algo = entry(method)

    setattr(__init__, _MARK, True)
    editor_class.__init__ = __init__


def _construct(editor: Any, hparams: Any, method: EditMethod) -> None:
    """Set what EasyEdit's methods expect of an editor. The caller's hyperparameters stay untouched.

    Raises:
        ModelError: the model can't be loaded.
        DeviceError: the device isn't there.
    """
    from easyedit_lifelong.models.load import load_named

    is_pair = isinstance(hparams.model_name, (tuple, list))
    model, tokenizer = _adopt(hparams) if is_pair else load_named(hparams)
    device = _input_device(model)
    editor.model, editor.tok = model, tokenizer
    editor.alg_name = method.name
    editor.model_name = scoring_name(model, hparams.model_name)
    editor.device = device
    own = copy.copy(hparams)
    # Not setattr: hyperparameters may be frozen.
    object.__setattr__(own, "device", device.index if device.type == "cuda" else str(device))
    object.__setattr__(own, "model_name", editor.model_name)
    editor.hparams = own


def _adopt(hparams: Any) -> tuple[Any, Any]:
    """Take a ``(model, tokenizer)`` pair; move the model only if a device is asked for."""
    from easyedit_lifelong.models.devices import resolve_device
    from easyedit_lifelong.models.load import prepare_tokenizer

    model, tokenizer = hparams.model_name
    # EasyEdit's scoring pads, and counts prompt tokens as if padding were on the left.
    prepare_tokenizer(tokenizer, model)
    device = getattr(hparams, "device", None)
    if device is not None and not getattr(hparams, "model_parallel", False):
        model.to(resolve_device(device))
    return model, tokenizer


def _input_device(model: Any) -> Any:
    """Return where the model takes its input; weights that accelerate has offloaded are nowhere."""
    import torch

    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def scoring_name(model: Any, asked_for: Any) -> str:
    """Return the string that EasyEdit's scoring may call the model by.

    EasyEdit takes a model for a sequence-to-sequence one if its name, path included, contains
    ``t5``. The name given is kept unless it would be taken for the wrong kind.

    Args:
        model: the loaded model.
        asked_for: the hyperparameters' ``model_name``.
    """
    from easyedit_lifelong.models.load import model_label

    label = str(asked_for) if isinstance(asked_for, str) else model_label(model)
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if ("t5" in label.lower()) == encoder_decoder:
        return label
    return f"t5-like {type(model).__name__}" if encoder_decoder else type(model).__name__
