"""The hyperparameters of MEND, with the names of EasyEdit's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams


@dataclass(kw_only=True)
class MendHyperParams(HypernetworkHyperParams):
    """Hyperparameters of MEND (arXiv 2110.11309); those of its training are in :class:`HypernetworkHyperParams`.

    Attributes:
        edit_lr: the first value of α, the size of an update. α is learned, with one value for each projection.
        lr_lr: learning rate of α (Adam).
        rank: rank of the matrices of the network.
        n_hidden: number of hidden layers of the network, which has one layer more.
        init: must be ``id``: before the training, the network returns its input.
        norm: must be true: the input of the network is normalised.
        combine: must be true: one network transforms u and δ together.
        shared: must be true: projections of one shape share a network.
        mlp_class: must be ``IDMLP``: layers of low rank with a residual connection.
        act: must be ``relu``.
        one_sided: must be false.
        x_only: must be false.
        delta_only: must be false.
        hidden_dim: read from EasyEdit's files; not used: hidden layers have the width of the input.
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

    ALG_NAME: ClassVar[str] = "MEND"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **HypernetworkHyperParams.CHOICES,
        "train_base": (False,),
        "early_stop_key": ("loss/total_edit_val", "edit/acc_val"),
        "dropout": (0.0,),
        "init": ("id",),
        "norm": (True,),
        "combine": (True,),
        "shared": (True,),
        "mlp_class": ("IDMLP",),
        "act": ("relu",),
        "one_sided": (False,),
        "x_only": (False,),
        "delta_only": (False,),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {**HypernetworkHyperParams.AT_LEAST, "rank": 1, "n_hidden": 0}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*HypernetworkHyperParams.ABOVE_ZERO, "edit_lr", "lr_lr")
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params", "rank", "n_hidden")

    edit_lr: float = 1e-4
    lr_lr: float = 1e-4
    rank: int = 1920
    n_hidden: int = 1
    init: str = "id"
    norm: bool = True
    combine: bool = True
    shared: bool = True
    mlp_class: str = "IDMLP"
    act: str = "relu"
    one_sided: bool = False
    x_only: bool = False
    delta_only: bool = False
    hidden_dim: int | None = None
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
