"""The hyperparameters of methods with a trained network: those of its training, with the names of EasyEdit's files."""

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
        edit_lr: the first value of α, the size of an update. α is learned, with one value for each projection.
        lr_lr: learning rate of α (Adam).
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
        train_base: must be false: the model itself is not trained.
        early_stop_key: read from EasyEdit's files; not used: the network with the smallest validation loss is kept.
        model_class: read from EasyEdit's files; not used.
        tokenizer_class: read from EasyEdit's files; not used.
        tokenizer_name: read from EasyEdit's files; not used.
        lr_scale: read from EasyEdit's files; not used.
        cbase: read from EasyEdit's files; not used.
        dropout: read from EasyEdit's files; must be 0.
        no_grad_layers: read from EasyEdit's files; not used.
        results_dir: read from EasyEdit's files; not used.
        model_save_pt: read from EasyEdit's files; not used.
        silent: read from EasyEdit's files; not used.
        eval_log_interval: read from EasyEdit's files; not used.
        final_eval: read from EasyEdit's files; not used.
        eval_only: read from EasyEdit's files; not used.
        half: read from EasyEdit's files; not used: ``dtype`` is the data type of the model's weights.
        save: read from EasyEdit's files; not used.
        debug: read from EasyEdit's files; not used.
        verbose: read from EasyEdit's files; not used.
        val_batch_size: read from EasyEdit's files; not used.
        max_output_length: read from EasyEdit's files; not used.
        max_epochs: read from EasyEdit's files; not used.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "opt": ("Adam",),
        "kl_tokens": ("all", "answer"),
        "train_base": (False,),
        "early_stop_key": ("loss/total_edit_val", "edit/acc_val"),
        "dropout": (0.0,),
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
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("lr", "edit_lr", "lr_lr", "grad_clip")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params",)
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params",)
    """The names of the fields that must be the same in training and in editing."""

    archive: str | None = None
    lr: float = 1e-6
    edit_lr: float = 1e-4
    lr_lr: float = 1e-4
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
    train_base: bool = False
    early_stop_key: str = "loss/total_edit_val"
    model_class: str | None = None
    tokenizer_class: str | None = None
    tokenizer_name: str | None = None
    lr_scale: float = 1.0
    cbase: float = 1.0
    dropout: float = 0.0
    no_grad_layers: Any = None
    results_dir: str | None = None
    model_save_pt: int | None = None
    silent: bool = False
    eval_log_interval: int | None = None
    final_eval: bool = True
    eval_only: bool = False
    half: bool = False
    save: bool = False
    debug: bool = False
    verbose: bool = True
    val_batch_size: int | None = None
    max_output_length: int | None = None
    max_epochs: int | None = None
