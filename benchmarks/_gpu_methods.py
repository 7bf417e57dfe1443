"""The methods that ``gpu.py`` runs: their hyperparameters for each model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _random_models import RandomLanguage

from easyedit_lifelong import get_plugins
from easyedit_lifelong.methods.base import EditMethod


@dataclass(frozen=True)
class Effort:
    """How much an edit computes.

    Attributes:
        value_steps: optimisation steps of a value of GRACE, at most.
        target_steps: optimisation steps of a target vector, at most.
        contexts: ``[tokens, count]`` pairs of generated contexts.
        layers: how many layers the methods with second moments edit; AlphaEdit edits one.
    """

    value_steps: int
    target_steps: int
    contexts: list[list[int]]
    layers: int


@dataclass(frozen=True)
class Paths:
    """The paths of a model family's modules, with ``{}`` for the number of a block.

    Attributes:
        block: a block.
        up: the first projection of the MLP.
        down: its last projection.
        grace: the layer that GRACE edits, as in the shipped files.
    """

    block: str
    up: str
    down: str
    grace: str


_LLAMA, _GPT2 = "model.layers.{}", "transformer.h.{}"
PATHS = {
    "llama": Paths(_LLAMA, f"{_LLAMA}.mlp.gate_proj", f"{_LLAMA}.mlp.down_proj", f"{_LLAMA}.mlp.down_proj"),
    "gpt2": Paths(_GPT2, f"{_GPT2}.mlp.c_fc", f"{_GPT2}.mlp.c_proj", f"{_GPT2}.mlp.c_fc"),
}
"""By ``model_type`` of the configuration."""


@dataclass(frozen=True)
class Target:
    """A model to edit.

    Attributes:
        name: its name.
        config: its configuration.
        dtype: its dtype.
        corpus: a text file for second moments.
        stats: the folder of its second moments.
        effort: how much an edit computes.
    """

    name: str
    config: Any
    dtype: torch.dtype
    corpus: Path
    stats: Path
    effort: Effort

    @property
    def paths(self) -> Paths:
        """The paths of the model's modules."""
        return PATHS[self.config.model_type]

    @property
    def key_width(self) -> int:
        """The width of the inputs of the MLP's last projection."""
        width = getattr(self.config, "intermediate_size", None)
        return width if width is not None else 4 * int(self.config.hidden_size)

    @property
    def moment_tokens(self) -> int:
        """The tokens for the second moments: more than the dimensions of a key, so that they have full rank."""
        return 3 * self.key_width // 2

    @property
    def layers(self) -> list[int]:
        """The edited blocks of methods with second moments: the first of them is at an eighth of the depth."""
        first = int(self.config.num_hidden_layers) // 8
        return list(range(first, first + self.effort.layers))

    def block(self, depth: float) -> int:
        """Return the number of the block at a depth between 0 and 1."""
        return int(depth * int(self.config.num_hidden_layers))

    def write_corpus(self) -> None:
        """Write the text file of the second moments, unless it exists."""
        if not self.corpus.exists():
            RandomLanguage(self.config.vocab_size).write_corpus(self.corpus, self.moment_tokens)

    def __str__(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"


def _moments(target: Target) -> dict[str, Any]:
    return {
        "mom2_dataset": str(target.corpus),
        "mom2_n_samples": None,
        "mom2_n_tokens": target.moment_tokens,
        "stats_dir": str(target.stats),
    }


def _grace(target: Target) -> dict[str, Any]:
    layer = target.paths.grace.format(target.block(0.72))
    return {"inner_params": [layer], "n_iter": target.effort.value_steps}


def _grace_by_subject(target: Target) -> dict[str, Any]:
    return {
        "inner_params": [target.paths.up.format(max(1, target.block(0.07)))],
        "answer_layer": target.paths.block.format(target.block(0.73)) + ".mlp",
        "query_token": "subject_last",
        "dist_fn": "cos",
        "eps": 0.03,
        "whiten": True,
        "key_templates": ["{subject}"],
        "gate_eps": 0.5,
        "context_templates": ["aaaa {prompt}"],  # aaaa is a word of the random language
        "val_init": "warm",
        "n_iter": target.effort.value_steps,
        **_moments(target),
    }


def _locate_edit(target: Target) -> dict[str, Any]:
    # With the weights and limits of the shipped files, which are for trained models, an edit changes the answers of a
    # random model less than the rounding of bfloat16.
    return {
        "mom2_update_weight": 1.0,
        "clamp_norm_factor": 4.0,
        "v_weight_decay": 0.0,
        "layers": target.layers,
        "rewrite_module_tmp": target.paths.down,
        "layer_module_tmp": target.paths.block,
        "v_num_grad_steps": target.effort.target_steps,
        "context_template_length_params": target.effort.contexts,
        **_moments(target),
    }


def _alphaedit(target: Target) -> dict[str, Any]:
    # One layer, since the eigenvalues of the second moments of a wide layer take long. A share of the trace decides
    # what the null space is: the authors' threshold is for the second moments of trained models.
    return {**_locate_edit(target), "layers": target.layers[:1], "nullspace_energy": 0.2}


def _ultraedit(target: Target) -> dict[str, Any]:
    return {"inner_params": [target.paths.down.format(target.block(depth)) for depth in (0.7, 0.8)], "lr": 1e-3}


@dataclass(frozen=True)
class MethodRun:
    """A method, or a mode of a method, that is run.

    Attributes:
        name: its name in the report.
        method: the registered method.
        settings: gives hyperparameters for a model.
        adds_hooks: whether an edited model has hooks, rather than only other weights.
        local: whether the answers to all other prompts are bitwise those of the unedited model.
    """

    name: str
    method: str
    settings: Callable[[Target], dict[str, Any]]
    adds_hooks: bool = False
    local: bool = False

    @property
    def entry(self) -> EditMethod:
        """The registered method."""
        return get_plugins().methods.get(self.method)

    def hparams(self, target: Target, edits: int) -> Any:
        """Return hyperparameters for a model and for batches of so many edits."""
        dtype = str(target.dtype).removeprefix("torch.")
        hparams_class: Any = self.entry.hparams_class
        return hparams_class(model_name=target.name, dtype=dtype, batch_size=edits, **self.settings(target))


METHODS = [
    MethodRun("GRACE", "GRACE", _grace, adds_hooks=True, local=True),
    MethodRun("GRACE by subjects", "GRACE", _grace_by_subject, adds_hooks=True, local=True),
    MethodRun("UltraEdit", "UltraEdit", _ultraedit),
    MethodRun("CoachHook", "CoachHook", _locate_edit, adds_hooks=True),
    MethodRun("MEMIT-native", "MEMIT-native", _locate_edit),
    MethodRun("AlphaEdit", "AlphaEdit", _alphaedit),
]
"""The method that takes longest is the last one, so that a section that is cut has run the others."""

REDUCED = MethodRun(
    "CoachHook in bfloat16",
    "CoachHook",
    lambda target: {**_locate_edit(target), "train_dtype": "bfloat16"},
    adds_hooks=True,
)
"""Trains target vectors with products in bfloat16, also on models in float32."""

PLAIN_HOOKS = [run for run in METHODS if run.name in ("GRACE", "CoachHook")]
"""One method for each kind of hook."""
