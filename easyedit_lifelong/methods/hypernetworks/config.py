"""The hyperparameters that methods with a trained network share: those of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.weight_updates.config import NamedProjectionsHyperParams


@dataclass(kw_only=True)
class HypernetworkHyperParams(NamedProjectionsHyperParams):
    """Base class of the hyperparameters of methods with a trained network.

    One *training edit* is an update that the network computes for ``batch_size`` requests of the training data.

    Attributes:
        archive: the folder of the trained network, which ``easyedit-lifelong train`` writes; None: not trained yet.
        lr: learning rate of the network's weights (Adam).
        cedit: c_edit, the weight of the negative log-likelihood of the edit.
        cloc: c_loc, the weight of the KL divergence on locality prompts.
        kl_tokens: the tokens of a locality prompt and its answer whose predictions the KL divergence compares: ``all``,
            or those of the ``answer``, which costs less.
        accumulate_bs: number of training edits in one optimiser step.
        grad_clip: largest norm of the gradient in an optimiser step.
        max_iters: number of training edits.
        val_interval: number of training edits between two validations. Each one also saves a checkpoint.
        val_steps: largest number of records that are held out for the validation.
        early_stop_patience: stop the training after this many training edits without a smaller validation loss.
        log_interval: number of training edits that one line of the training curve averages.
        opt: the optimiser; must be ``Adam``.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "opt": ("Adam",),
        "kl_tokens": ("all", "answer"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **NamedProjectionsHyperParams.AT_LEAST,
        "cedit": 0,
        "cloc": 0,
        "accumulate_bs": 1,
        "max_iters": 1,
        "val_interval": 1,
        "val_steps": 1,
        "early_stop_patience": 1,
        "log_interval": 1,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("lr", "grad_clip")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params",)
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params",)
    """The names of the fields that must be the same in training and in editing."""

    archive: str | None = None
    lr: float = 1e-6
    cedit: float = 0.1
    cloc: float = 1.0
    kl_tokens: str = "all"
    accumulate_bs: int = 10
    grad_clip: float = 100.0
    max_iters: int | None = 100_000
    val_interval: int = 1000
    val_steps: int = 500
    early_stop_patience: int = 20_000
    log_interval: int = 100
    opt: str = "Adam"
