"""Find the layers that GRACE's hyperparameters name in a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.modules import find_module


def find_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, nn.Module]:
    """Return the path and the module of the layer that ``inner_params`` names.

    Raises:
        ModelError: the model has no such layer.
    """
    return _find_module(model, hparams, "inner_params", hparams.inner_params[0])


def find_answer_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, nn.Module] | None:
    """Return the path and the module of the layer that ``answer_layer`` names; None if the setting is None.

    Raises:
        ModelError: the model has no such layer.
    """
    if hparams.answer_layer is None:
        return None
    return _find_module(model, hparams, "answer_layer", hparams.answer_layer)


def _find_module(model: Any, hparams: GraceHyperParams, field: str, name: str) -> tuple[str, nn.Module]:
    """Find a module by name; an error names the hyperparameter file and the field."""
    try:
        return find_module(model, name)
    except ModelError as error:
        where = ", ".join(part for part in (hparams.source, field) if part)
        raise ModelError(f"{where}: {error}") from None
