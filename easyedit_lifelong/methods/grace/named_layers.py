"""Find the layers that GRACE's hyperparameters name in a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.anatomy import anatomy_of, is_routed_expert
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.split_weights import is_split
from easyedit_lifelong.models.wrappers import unwrap_model


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


def name_another_layer(model: nn.Module, layer: nn.Module) -> str:
    """Return a sentence that tells the user to name another layer than this one, such as the block that contains it."""
    anatomy = anatomy_of(model)
    path = next((path for path, module in unwrap_model(model).named_modules() if module is layer), "")
    block = None if anatomy is None else anatomy.block_of(path)
    example = "" if anatomy is None or block is None else f", such as {anatomy.blocks_path}[{block}]"
    return f"Name another layer in inner_params{example}."


def _find_module(model: Any, hparams: GraceHyperParams, field: str, name: str) -> tuple[str, nn.Module]:
    """Find a module that gets all tokens by its name; an error names the hyperparameter file and the field."""
    where = ", ".join(part for part in (hparams.source, field) if part)
    try:
        path, module = find_module(model, name)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    if isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.Embedding)):
        reason = "reads token ids" if isinstance(module, nn.Embedding) else "is a list of layers"
        raise ModelError(
            f"{where}: {path} {reason}, so its input can't be a query. Name a projection, an MLP or a block."
        )
    if is_routed_expert(path):
        raise ModelError(
            f"{where}: {path} gets only the tokens that are routed to this expert, so it can't find a prompt by its "
            "last token. Name a layer that gets all tokens, such as the block's MLP."
        )
    if is_split(module):
        parent = path.rpartition(".")[0]
        raise ModelError(
            f"{where}: {path} is split over processes by tensor parallelism, so each of them has a part of its input "
            f"or output. Name a layer that gets and returns whole vectors, such as {parent}."
        )
    return path, module
