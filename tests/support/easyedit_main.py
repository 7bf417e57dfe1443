"""Hyperparameters of the methods of EasyEdit's main branch for tiny models, and direct calls of them.

Run as a module, this edits a tiny model with EasyEdit's own function, without this package's handling of its state, and
writes the edited tensors:

    python -m tests.support.easyedit_main METHOD KIND FILE
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from easyedit_lifelong import bridge
from easyedit_lifelong.bridge.layer_methods import _unrelated_text
from easyedit_lifelong.bridge.method_hparams import hparams_class
from easyedit_lifelong.bridge.registration import own_function
from easyedit_lifelong.data.request import as_requests
from tests.support.easyedit_memit import NAMES, REQUESTS, VALUES, random_moments
from tests.support.toy_method import make_pair

WEIGHT_METHODS = ("ROME", "R-ROME", "MEMIT", "EMMET", "PMET", "AlphaEdit", "ULTRAEDIT", "SimIE")
BATCHED = ("MEMIT", "EMMET", "PMET", "AlphaEdit", "ULTRAEDIT", "SimIE")
LAYER = {"gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj"}

_MORE_VALUES: dict[str, Any] = {
    "v_num_grad_steps": 6,
    "context_template_length_params": [[5, 5]],
    "fp16": False,
    "nll_loss_factor": 1.0,
    "nullspace_threshold": 1.0,
    "L2": 1.0,
    "P_loc": "",
    "lr": 1e-3,
    "token": "mask",
    "batch_size_once": 1,
    "editor_batch_size": 64,
    "dropout": 0.0,
    "no_grad_layers": None,
    "silent": True,
    "results_dir": None,
    "model_class": "",
    "tokenizer_class": "",
    "tokenizer_name": "",
    "edit_lr": 0.1,
    "n_iter": 6,
    "threshold": 0.5,
    "objective_optimization": "only_label",
    "mask_ratio": 0.2,
    "alpha": 5.0,
    "beta": 20.0,
    "gamma": 10.0,
    "act_ratio": 0.88,
    "save_freq": 2,
    "merge_freq": 4,
    "merge_alg": "ties",
    "retrieve": True,
    "replay": False,
    "norm_constraint": 1.0,
    "weights": 1.0,
    "densities": 0.53,
    "base_method": "MEMIT",
    "lamHyper": 10.0,
    "init_model": True,
    "solver": "LU",
    "fast": True,
    "max_length": 40,
    "model_parallel": False,
}


def values_of(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    """Return the values of a hyperparameter file for a method of EasyEdit and a tiny model of this kind."""
    values = {**VALUES, **NAMES[kind], **_MORE_VALUES, "alg_name": name, **changes}
    values["inner_params"] = [f"{LAYER[kind]}.weight"]
    values["rewrite_module_tmps"] = [values["rewrite_module_tmp"]]
    fields = {item.name for item in dataclasses.fields(hparams_class(name))}
    return {key: value for key, value in values.items() if key in fields or key == "base_file"}


def main_hparams(name: str, kind: str, **changes: Any) -> Any:
    """Return hyperparameters as this package reads them."""
    return bridge.easyedit_hparams(values_of(name, kind, **changes), name, "test")


def tensors_of(model: Any) -> dict[str, Tensor]:
    """Return copies of a model's tensors; those that share memory, once."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}


def batches_of(name: str) -> list[list[dict[str, Any]]]:
    """Return the tests' requests in the batches of a method: two and one, or one by one."""
    return [REQUESTS[:2], REQUESTS[2:]] if name in BATCHED else [[request] for request in REQUESTS[:2]]


def edit_directly(name: str, kind: str) -> Any:
    """Return a tiny model, edited by EasyEdit's own function as its ``BaseEditor`` would call it."""
    model, tok = make_pair(kind)
    hparams = _direct_hparams(name, kind)
    if name == "WISE":
        _remove_brackets()
    tok.padding_side = "left" if name == "WISE" else "right"
    _fill_caches(model, kind)
    edited = model
    for number, batch in enumerate(batches_of(name)):
        records = [{"ground_truth": "", **request} for request in batch]
        for request, record in zip(as_requests(batch), records, strict=True):
            record["loc_prompt"] = _unrelated_text(request, number)
        if name == "PMET":  # with a model called "gpt…", EasyEdit adds this space
            records = [{**record, "target_new": f" {record['target_new']}"} for record in records]
        if name == "ULTRAEDIT":
            hparams.batch_size = len(batch)
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        edited = own_function(name)(edited if name == "DEFER" else model, tok, records, hparams)[0]
    return model


def _direct_hparams(name: str, kind: str) -> Any:
    """Return an object of EasyEdit's own class."""
    changes = {"device": "cpu", "model_name": {"gpt2": "gpt2-xl", "llama": "llama"}[kind]}
    if name != "SimIE":
        cls = hparams_class(name)
        hparams = cls(**values_of(name, kind, **changes))
    else:
        cls = hparams_class(name).__bases__[0]
        hparams = cls(**values_of(name, kind, **changes))
        hparams._base_hparams = _direct_hparams("MEMIT", kind)
    layer = LAYER[kind].replace(".1.", "[1].")
    if name in {"WISE", "DEFER"}:
        hparams.inner_params, hparams.sequential_edit = [f"{layer}.weight"], True
    return hparams


def _remove_brackets() -> None:
    """Let WISE format contexts in which a tiny model has generated curly brackets."""
    module = importlib.import_module("easyeditor.models.wise.wise_main")
    generate = module.get_context_templates

    def without_brackets(*args: Any, **kwargs: Any) -> list[str]:
        texts = [template.removesuffix("{}") for template in generate(*args, **kwargs)]
        return [text.replace("{", " ").replace("}", " ") + "{}" for text in texts]

    module.get_context_templates = without_brackets


def _fill_caches(model: Any, kind: str) -> None:
    """Put random second moments into EasyEdit's caches, in which it looks before it collects any."""
    moments = random_moments(model, hparams_class("MEMIT")(**values_of("MEMIT", kind)))
    for module in ("memit.memit_main", "emmet.emmet_main", "pmet.pmet_main", "alphaedit.AlphaEdit_main"):
        cache = importlib.import_module(f"easyeditor.models.{module}").COV_CACHE
        cache.update({("", name): moment for name, moment in moments.items()})
    for module in ("rome.compute_u", "r_rome.compute_u"):
        cache = importlib.import_module(f"easyeditor.models.{module}").inv_mom2_cache
        cache.update({("", name): moment.double().inverse().float() for name, moment in moments.items()})


def main() -> None:
    """Edit directly, and write the tensors."""
    name, kind, file = sys.argv[1:]
    bridge.install()
    importlib.import_module("easyeditor")
    target = Path(file).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)  # AlphaEdit writes null_space_project.pt
        model = edit_directly(name, kind)
    save_file(tensors_of(model), target)


if __name__ == "__main__":
    main()
