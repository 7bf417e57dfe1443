"""Make EasyEdit's ``BaseEditor`` load models with this package's loader if the method is one of ours.

EasyEdit's own constructor selects model classes by substrings of the model's name, supports few names, and opens log
files. For EasyEdit's own methods, it runs unchanged.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from easyedit_lifelong.bridge.edit_calls import numbered
from easyedit_lifelong.bridge.wrapping import wrap
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.devices import resolve_device
from easyedit_lifelong.models.load import load_from_hparams, model_label, prepare_tokenizer
from easyedit_lifelong.plugins import get_plugins


def wrap_constructor(editor_class: Any, entry: Callable[[EditMethod], Callable[..., Any]]) -> None:
    """Wrap ``BaseEditor.__init__`` so that it supports our methods. A second call does nothing.

    The constructor raises a :class:`HyperParameterError` if it is given the name of a file.

    Args:
        editor_class: EasyEdit's ``BaseEditor``.
        entry: returns a method's function in EasyEdit's ``ALG_DICT``; adds it if it is missing.
    """

    def construct(original: Callable[..., None], editor: Any, hparams: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(hparams, (str, Path)):
            raise HyperParameterError(
                "BaseEditor needs hyperparameters, not the name of a file. Read them with their class, such as "
                f"GraceHyperParams.from_hparams({str(hparams)!r})."
            )
        method = get_plugins().method_for(hparams)
        if method is None:
            original(editor, hparams, *args, **kwargs)
        else:
            _construct(editor, hparams, method)
            editor.apply_algo = numbered(entry(method))

    wrap(editor_class, "__init__", construct)


def _construct(editor: Any, hparams: Any, method: EditMethod) -> None:
    """Set the attributes of a ``BaseEditor`` that its methods use. The caller's hyperparameters are not changed.

    Raises:
        ModelError: the model can't be loaded.
        DeviceError: the device doesn't exist.
    """
    is_pair = isinstance(hparams.model_name, (tuple, list))
    editor.model, editor.tok = _prepare_pair(hparams) if is_pair else load_from_hparams(hparams)
    editor.alg_name = method.name
    editor.model_name = scoring_name(editor.model, hparams.model_name)
    # Weights that accelerate has offloaded are on the device "meta".
    devices = (parameter.device for parameter in editor.model.parameters() if parameter.device.type != "meta")
    editor.device = next(devices, torch.device("cpu"))
    editor.hparams = copy.copy(hparams)
    # object.__setattr__ also works on frozen hyperparameters.
    device = editor.device.index if editor.device.type == "cuda" else str(editor.device)
    object.__setattr__(editor.hparams, "device", device)
    object.__setattr__(editor.hparams, "model_name", editor.model_name)


def _prepare_pair(hparams: Any) -> tuple[Any, Any]:
    """Return the loaded model and tokenizer in ``hparams.model_name``; move the model if ``hparams`` has a device."""
    model, tokenizer = hparams.model_name
    # EasyEdit's scoring needs a padding token, and padding on the left.
    prepare_tokenizer(tokenizer, model)
    device = getattr(hparams, "device", None)
    if device is not None and not getattr(hparams, "model_parallel", False):
        model.to(resolve_device(device))
    return model, tokenizer


def scoring_name(model: Any, requested: Any) -> str:
    """Return the model name for EasyEdit's scoring.

    EasyEdit treats a model as an encoder-decoder model if its name or path contains ``t5``. If that would be wrong for
    this model, its class name is used instead.

    Args:
        model: the loaded model.
        requested: ``model_name`` of the hyperparameters.
    """
    name = requested if isinstance(requested, str) else model_label(model)
    is_encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if ("t5" in name.lower()) == is_encoder_decoder:
        return name
    return f"t5-like {type(model).__name__}" if is_encoder_decoder else type(model).__name__
