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
    """

    ALG_NAME: ClassVar[str] = "MEND"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **HypernetworkHyperParams.CHOICES,
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
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params", "rank", "n_hidden")

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
