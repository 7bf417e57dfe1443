"""Write a hyperparameter file for a new model: a shipped file of the method, with the model's layers and modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import HyperParameterError, ModelError, RunError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.locate.layer_rule import SuggestedLayers
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.models.anatomy import Anatomy, anatomy_of, attention_output_of, mlp_of, projection_shape
from easyedit_lifelong.models.load import model_label
from easyedit_lifelong.models.wrappers import unwrap_model
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, make_hparams, shipped_hparams

_SMALL, _LARGE = "smollm2-135m", "llama3-8b"
_LARGE_FROM = 1_500_000_000
"""From this number of parameters on, the file of a large model is the template."""

_TOKENS_PER_DIMENSION = 10
"""Tokens of second moments for each dimension of the keys."""


def check_suggestible(method: EditMethod) -> None:
    """Check that a file can be written for a method.

    Raises:
        HyperParameterError: the method does not edit layers that are named by their numbers.
    """
    fields = {field.name for field in dataclasses.fields(method.hparams_class)}
    if not {"layers", "rewrite_module_tmp"} <= fields:
        raise HyperParameterError(
            f"--suggest {method.name}: causal tracing suggests `layers` of MLPs, and {method.name} has no such setting"
        )


def suggest_hparams(method: EditMethod, model: Any, layers: SuggestedLayers) -> dict[str, Any]:
    """Return hyperparameters of a method for a model.

    The values are those of a file shipped for another model of similar size, but for the model's name, its layers and
    modules, and what follows from its size.

    Args:
        method: the method.
        model: the model.
        layers: the layers that the traces suggest.

    Raises:
        HyperParameterError: the method does not edit layers that are named by their numbers, or no file ships for it.
        ModelError: the model's blocks or MLPs aren't found.
    """
    check_suggestible(method)
    label = model_label(model)
    anatomy = anatomy_of(model)
    mlp = None if anatomy is None else mlp_of(anatomy.blocks[0])
    if anatomy is None or mlp is None:
        raise ModelError(f"{label}: the MLPs of its blocks aren't found, so --suggest can't name the modules to edit")
    template = hparams_values(load_hparams(_template_file(method.name, model)))
    n_layers = len(anatomy.blocks)
    width = projection_shape(anatomy.blocks[0].get_submodule(mlp.output))
    values = {
        "model_name": label,
        "layers": _chosen_layers(len(template["layers"]), layers, n_layers),
        "v_loss_layer": n_layers - 1,
        "rewrite_module_tmp": f"{anatomy.blocks_path}.{{}}.{mlp.output}",
        "layer_module_tmp": f"{anatomy.blocks_path}.{{}}",
        "mlp_module_tmp": f"{anatomy.blocks_path}.{{}}.{mlp.output.rpartition('.')[0] or mlp.output}",
        **_other_modules(model, anatomy, width[1]),
        "mom2_n_tokens": _TOKENS_PER_DIMENSION * width[0],
    }
    known = {name: value for name, value in values.items() if template.get(name) is not None}
    suggested = {**template, **known}
    make_hparams(suggested, "the suggested file")  # checks them
    return suggested


def write_suggested_hparams(path: Path, values: Mapping[str, Any]) -> None:
    """Write hyperparameters as a YAML file, with a comment that says where they are from.

    Raises:
        RunError: the file can't be written.
    """
    comment = (
        f"# {values['alg_name']} on {values['model_name']}. The layers are suggested by causal tracing (`locate`).\n"
        "# Other values are those of another model; check them on records that aren't scored.\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, comment + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror}") from error


def _template_file(method: str, model: Any) -> Path:
    """Return the file of the method that is shipped for a model of similar size."""
    size = sum(parameter.numel() for parameter in model.parameters())
    order = (_LARGE, _SMALL) if size >= _LARGE_FROM else (_SMALL, _LARGE)
    try:
        return shipped_hparams(method, order[0], "--suggest for")
    except HyperParameterError:
        return shipped_hparams(method, order[1], "--suggest for")


def _chosen_layers(number: int, layers: SuggestedLayers, n_layers: int) -> list[int]:
    """Return the layers to edit: one, or several, as in the template.

    Raises:
        HyperParameterError: the traces suggest no layers.
    """
    if number == 1 and layers.single is not None:
        return [layers.single]
    if number > 1 and layers.several is not None:
        return list(layers.several)
    lacking = "MLP outputs (--kinds mlp)" if number == 1 else "states and severed MLPs (--kinds state --severed mlp)"
    raise HyperParameterError(f"--suggest: the traces suggest no layers; they need {lacking}")


def _other_modules(model: Any, anatomy: Anatomy, width: int) -> dict[str, str]:
    """Return the paths of the attention, the final norm and the head, as far as they are found."""
    found = {}
    attention = attention_output_of(anatomy.blocks[0], width)
    if attention is not None:
        found["attn_module_tmp"] = f"{anatomy.blocks_path}.{{}}.{attention.rpartition('.')[0] or attention}"
    paths = {module: path for path, module in unwrap_model(model).named_modules()}
    for name, module in (("ln_f_module", anatomy.final_norm), ("lm_head_module", anatomy.head)):
        if module is not None:
            found[name] = paths[module]
    return found
