"""The table of methods that the conformance tests run: one line for each method, or for each mode of a method.

To test a new method, add a line to :data:`CASES`. Everything else is derived from its :class:`EditMethod`.
:func:`installed_cases` adds the method of an installed plugin.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong import (
    AlphaEditHyperParams,
    CoachHookHyperParams,
    DeferHyperParams,
    EditMethod,
    ENNHyperParams,
    FTEWCHyperParams,
    FTHyperParams,
    FTLHyperParams,
    FTRetrainHyperParams,
    GraceHyperParams,
    IKEHyperParams,
    KEHyperParams,
    LocFTBFHyperParams,
    MemoryHyperParams,
    MendHyperParams,
    NativeMemitHyperParams,
    NativeRomeHyperParams,
    NeuralDBHyperParams,
    SERACHyperParams,
    UltraEditHyperParams,
    get_plugins,
    train_editor,
)
from easyedit_lifelong.methods.edit_stores import AppendableEditStore
from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams
from tests.support.corpus import write_corpus
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training_records import training_records

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin" / "easyedit_lifelong_biasedit.py"
"""The example of a third party's plugin."""

PORTS = [item.name for item in fields(EditMethod) if item.default is None or item.default_factory is not MISSING]
"""The optional ports of a method, by field name."""


@dataclass(frozen=True)
class Layout:
    """The paths of the modules of a tiny model.

    Attributes:
        block: path of a block; ``{}`` stands for its number.
        down: path of the last projection of a block's MLP.
        embedding: path of the token embedding.
    """

    block: str
    down: str
    embedding: str


LAYOUTS = {
    "llama": Layout("model.layers.{}", "model.layers.{}.mlp.down_proj", "model.embed_tokens"),
    "gpt2": Layout("transformer.h.{}", "transformer.h.{}.mlp.c_proj", "transformer.wte"),
}
"""The model families of these tests."""

REQUESTS: list[dict[str, Any]] = [
    {"case_id": "france", "prompt": "the capital of France is", "target_new": "Rome", "subject": "France"},
    {"case_id": "hamlet", "prompt": "who wrote Hamlet", "target_new": "Peru", "subject": "Hamlet"},
    {"case_id": "piano", "prompt": "king plays piano", "target_new": "winter", "subject": "piano"},
    {"case_id": "moon", "prompt": "green cheese from the moon", "target_new": "violin", "subject": "moon"},
]
OTHER_PROMPTS = ["snow and mountain", "where was the old river born", "blue", "language spoken in Peru is not"]
"""Prompts about facts that no request edits."""


@dataclass(frozen=True)
class MethodCase:
    """A method, or a mode of a method, under test.

    Attributes:
        name: the name of the case.
        hparams_class: the method's hyperparameter class; a text is the name of a class of the example plugin.
        settings: gives hyperparameters for a tiny model of this layout.
        reads_activations: whether an edit depends on the model's activations.
        answers_every_prompt: whether each prompt gets the answer of some edit, as long as there is one.
    """

    name: str
    hparams_class: type | str
    settings: Callable[[Layout], dict[str, Any]]
    reads_activations: bool = True
    answers_every_prompt: bool = False

    def hparams(self, family: str = "llama") -> Any:
        """Return hyperparameters for a family's tiny model; paths of files are relative to the current folder."""
        hparams_class = self.hparams_class
        if isinstance(hparams_class, str):
            hparams_class = getattr(example_plugin(), hparams_class)
        return hparams_class(model_name="tiny", **self.settings(LAYOUTS[family]))

    @property
    def method(self) -> EditMethod:
        """The registered method."""
        method = get_plugins().method_for(self.hparams())
        assert method is not None, f"{self.name}: its method is not registered"
        return method

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run of the method can be resumed."""
        return self.method.state is not None or isinstance(self.method.edits, AppendableEditStore)

    def apply(self, model: Any, requests: Sequence[dict[str, Any]] = REQUESTS, family: str = "llama") -> Any:
        """Edit a model in place; return the rollback."""
        edited_model, rollback = self.method.apply(model, build_tokenizer(), list(requests), self.hparams(family))
        assert edited_model is model
        return rollback

    def edited(self, requests: Sequence[dict[str, Any]] = REQUESTS, family: str = "llama") -> Any:
        """Return a tiny model that carries edits."""
        model = build_model(family)
        self.apply(model, requests, family)
        return model


_MOMENTS: dict[str, Any] = {"mom2_dataset": "corpus.txt", "mom2_n_samples": 40, "stats_dir": "stats"}


def _grace(layout: Layout) -> dict[str, Any]:
    return {"inner_params": [layout.down.format(2)], "n_iter": 25, "eps": 1.0}


def _grace_subject(layout: Layout) -> dict[str, Any]:
    return {
        "inner_params": [layout.down.format(1)],
        "answer_layer": layout.down.format(2),
        "query_token": "subject_last",
        "gate_eps": 0.5,
        "dist_fn": "cos",
        "eps": "auto",
        "whiten": True,
        "n_iter": 25,
        "key_templates": ["not far . {prompt}"],
        "context_templates": ["but {subject} is"],
        **_MOMENTS,
    }


def _coachhook(layout: Layout) -> dict[str, Any]:
    return {
        "layers": [0, 1],
        "rewrite_module_tmp": layout.down,
        "layer_module_tmp": layout.block,
        "alpha_z": 1.0,
        "mom2_update_weight": 1.0,
        "clamp_norm_factor": 10,
        "v_weight_decay": 0.0,
        "v_num_grad_steps": 8,
        "batch_size": 2,
        "context_template_length_params": [[4, 2]],
        **_MOMENTS,
    }


def _memit(layout: Layout) -> dict[str, Any]:
    settings = _coachhook(layout)
    del settings["alpha_z"]
    # Other layers than CoachHook's, since two methods cannot write into the same weights.
    return {**settings, "layers": [2]}


def _alphaedit(layout: Layout) -> dict[str, Any]:
    # The eigenvalues of a tiny model are above the authors' threshold, so the share of the trace decides. The layer is
    # not that of MEMIT: two methods cannot write into the same weights.
    return {**_memit(layout), "layers": [1], "nullspace_energy": 0.2, "L2": 0.1}


def _alphaedit_variants(layout: Layout) -> dict[str, Any]:
    return {**_alphaedit(layout), "layers": [0, 1], "blue": True, "norm_anchor": 20.0, "projector": "evolving"}


def _coachhook_alphaedit(layout: Layout) -> dict[str, Any]:
    return {**_coachhook(layout), "update": "alphaedit", "nullspace_energy": 0.2, "L2": 0.1}


def _coachhook_codebook(layout: Layout) -> dict[str, Any]:
    settings = _coachhook(layout)
    del settings["alpha_z"]
    return {**settings, "scope_score": "codebook", "key_templates": ["not far . {prompt}"]}


def _ultraedit(layout: Layout) -> dict[str, Any]:
    return {"inner_params": [layout.down.format(3)], "lr": 0.01, "batch_size": 2}


def _rome(layout: Layout) -> dict[str, Any]:
    settings = _memit(layout)
    del settings["batch_size"]
    return settings


def _finetune(layer: int, **settings: Any) -> Callable[[Layout], dict[str, Any]]:
    """Return the settings of a fine-tuning method. Neighbours in the table must train different layers."""

    def settings_for(layout: Layout) -> dict[str, Any]:
        # A fixed number of steps: an edit that the tiny model already knows changes the weights, too.
        fixed = {"stop_when_correct": False, "stop_loss": 0, "num_steps": 8, "lr": 1e-2, "batch_size": 2}
        return {"layers": [layer], "rewrite_module_tmp": layout.down, **fixed, **settings}

    return settings_for


def _adaptor(layer: int, **settings: Any) -> Callable[[Layout], dict[str, Any]]:
    """Return the settings of a method with a trained adaptor."""
    fixed = {"n_iter": 25, "edit_lr": 1e-2, "batch_size": 2}  # With larger steps, gates can close for good.
    return lambda layout: {"inner_params": [layout.down.format(layer)], **fixed, **settings}


def _neuraldb(layout: Layout) -> dict[str, Any]:
    # The keys of a tiny model with random weights are near each other, so γ is larger than the paper's. The inputs of
    # block 0 do not depend on the weights that other methods change, so keys still match after those are rolled back.
    return {**_memit(layout), "layers": [0], "gamma": 0.9, "context_template_length_params": []}


def _mend(layout: Layout) -> dict[str, Any]:
    return {
        "inner_params": [layout.down.format(2), layout.down.format(3)],
        "rank": 4,
        "edit_lr": 1e-3,
        "accumulate_bs": 2,
        "archive": f"trained/{layout.embedding}",
        "batch_size": 2,
    }


def _ke(layout: Layout) -> dict[str, Any]:
    # A large scale: the network has hardly been trained, and its updates must change what the model predicts.
    return {
        "inner_params": [layout.down.format(1)],
        "hidden_dim": 4,
        "condition_dim": 8,
        "max_scale": 10.0,
        "accumulate_bs": 2,
        "archive": f"trained-ke/{layout.embedding}",
        "batch_size": 2,
    }


def _enn(layout: Layout) -> dict[str, Any]:
    return {
        "inner_params": [layout.down.format(2), layout.down.format(3)],
        "edit_lr": 0.3,
        "lr": 1e-3,
        "n_edit_steps": 2,
        "accumulate_bs": 2,
        "archive": f"trained-enn/{layout.embedding}",
        "batch_size": 2,
    }


CASES = [
    MethodCase("GRACE", GraceHyperParams, _grace),
    MethodCase("GRACE-subject", GraceHyperParams, _grace_subject),
    MethodCase("CoachHook", CoachHookHyperParams, _coachhook),
    MethodCase("CoachHook-wohk", CoachHookHyperParams, lambda layout: {**_coachhook(layout), "wohk": True}),
    MethodCase("CoachHook-alphaedit", CoachHookHyperParams, _coachhook_alphaedit),
    MethodCase("CoachHook-codebook", CoachHookHyperParams, _coachhook_codebook),
    MethodCase("MEMIT-native", NativeMemitHyperParams, _memit),
    MethodCase("AlphaEdit", AlphaEditHyperParams, _alphaedit),
    MethodCase("AlphaEdit-variants", AlphaEditHyperParams, _alphaedit_variants),
    MethodCase("UltraEdit", UltraEditHyperParams, _ultraedit),
    MethodCase("SERAC", SERACHyperParams, lambda layout: {"embedding_layer": 1, "threshold": 0.99}),
    MethodCase("ROME-native", NativeRomeHyperParams, _rome),
    MethodCase("FT-native", FTHyperParams, _finetune(3)),
    MethodCase("FT-L", FTLHyperParams, _finetune(2, norm_constraint=0.05)),
    MethodCase("FT-EWC", FTEWCHyperParams, _finetune(3)),
    MethodCase("FT-Retrain", FTRetrainHyperParams, _finetune(2, retrain_frequency=2)),
    # Keys that other methods store while every prompt has a text in front do not match without it. So the neighbours
    # of this line store weights.
    MethodCase("IKE", IKEHyperParams, lambda layout: {"embedding_layer": 1}, answers_every_prompt=True),
    MethodCase("LocFT-BF", LocFTBFHyperParams, _finetune(3, examples_per_step=2)),
    MethodCase("Defer-native", DeferHyperParams, _adaptor(1)),
    MethodCase("Memory", MemoryHyperParams, _adaptor(2, nkeys=5)),
    MethodCase("NeuralDB", NeuralDBHyperParams, _neuraldb),
    MethodCase("MEND", MendHyperParams, _mend),
    MethodCase("KE", KEHyperParams, _ke),
    MethodCase("ENN", ENNHyperParams, _enn),
    MethodCase("BiasEdit", "BiasEditHyperParams", lambda layout: {}, reads_activations=False),
]
"""One line for each method, or for each mode of a method."""


def installed_cases() -> list[MethodCase]:
    """Return the case of an installed plugin, whose hyperparameter class ``CONFORMANCE_CASE=PACKAGE:CLASS`` names.

    The class needs no values but ``model_name``. ``CONFORMANCE_ACTIVATIONS=no`` says that the method reads no
    activations.
    """
    if not (name := os.environ.get("CONFORMANCE_CASE")):
        return []
    hparams_class = pkgutil.resolve_name(name)
    reads_activations = os.environ.get("CONFORMANCE_ACTIVATIONS") != "no"
    return [MethodCase(hparams_class.ALG_NAME, hparams_class, lambda layout: {}, reads_activations=reads_activations)]


CASES += installed_cases()

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
"""Run a test with every case."""


def each_case_with(port: str) -> pytest.MarkDecorator:
    """Run a test with every case whose method has a port."""
    methods = {method.hparams_class.__name__: method for method in get_plugins().methods}
    example_plugin().register_methods(lambda method: methods.setdefault(method.hparams_class.__name__, method))

    def has_port(case: MethodCase) -> bool:
        name = case.hparams_class if isinstance(case.hparams_class, str) else case.hparams_class.__name__
        return getattr(methods[name], port) is not None

    return pytest.mark.parametrize("case", list(filter(has_port, CASES)), ids=lambda case: case.name)


each_family = pytest.mark.parametrize("family", LAYOUTS)
"""Run a test with every model family."""


def write_inputs(folder: Path) -> Path:
    """Write what the hyperparameters of the cases name: a text for second moments, and trained methods.

    Returns:
        The folder.
    """
    write_corpus(folder)
    for family in LAYOUTS:
        for hparams in (case.hparams(family) for case in CASES):
            if isinstance(hparams, HypernetworkHyperParams):
                assert hparams.archive is not None
                out = folder / hparams.archive
                train_editor(build_model(family), build_tokenizer(), training_records(6), hparams, out, edits=2)
    return folder


def example_plugin() -> Any:
    """Import the example plugin, and return its module."""
    if str(EXAMPLE.parent) not in sys.path:
        sys.path.append(str(EXAMPLE.parent))
    return importlib.import_module(EXAMPLE.stem)
