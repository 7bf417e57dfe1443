"""Write a hyperparameter file for a new model: a shipped file of the method, with the model's layers and modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from easyedit_lifelong.atomic import write_text_atomically
from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.hparams_files import hparams_values
from easyedit_lifelong.locate.layer_rule import SuggestedLayers
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.runs.adapted_hparams import modules_for_model, template_file
from easyedit_lifelong.runs.hyperparameter_files import load_hparams, make_hparams
from easyedit_lifelong.write_errors import translated_write_errors


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
    template = hparams_values(load_hparams(template_file(method.name, model, "--suggest for")))
    suggested = modules_for_model(template, model, "--suggest")
    suggested["layers"] = _chosen_layers(len(template["layers"]), layers)
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
    with translated_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, comment + yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))


def _chosen_layers(number: int, layers: SuggestedLayers) -> list[int]:
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
