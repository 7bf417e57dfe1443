"""The layers of a model that GRACE's hyperparameters name."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.modules import find_module


def find_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, nn.Module]:
    """Return the path and the module of the layer that the hyperparameters name.

    Raises:
        ModelError: there is none.
    """
    return _named(model, hparams, "inner_params", hparams.inner_params[0])


def answering_layer(model: Any, hparams: GraceHyperParams) -> tuple[str, nn.Module] | None:
    """Return the path and the module of ``answer_layer``; None if there is no such layer in the hyperparameters.

    Raises:
        ModelError: there is none in the model.
    """
    if hparams.answer_layer is None:
        return None
    return _named(model, hparams, "answer_layer", hparams.answer_layer)


def _named(model: Any, hparams: GraceHyperParams, field: str, name: str) -> tuple[str, nn.Module]:
    try:
        return find_module(model, name)
    except ModelError as error:
        where = ", ".join(part for part in (hparams.source, field) if part)
        raise ModelError(f"{where}: {error}") from None
