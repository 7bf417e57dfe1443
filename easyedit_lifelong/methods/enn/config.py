"""The hyperparameters of ENN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams


@dataclass(kw_only=True)
class ENNHyperParams(HypernetworkHyperParams):
    """Hyperparameters of ENN (arXiv 2004.00345); those of its training are in :class:`HypernetworkHyperParams`.

    Attributes:
        edit_lr: the first value of α, the learning rate of an edit. α is learned, with one value for each projection.
        lr: learning rate of the weights of the edited projections (Adam).
        lr_lr: learning rate of α (Adam).
        n_edit_steps: number of gradient steps of an edit.
        first_order: in the training, treat the gradient of an edit as a constant. It costs less.
        cbase: c_base, the weight of the KL divergence between the base model and the model with trained weights.
    """

    ALG_NAME: ClassVar[str] = "ENN"
    AT_LEAST: ClassVar[Mapping[str, float]] = {**HypernetworkHyperParams.AT_LEAST, "n_edit_steps": 1, "cbase": 0}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*HypernetworkHyperParams.ABOVE_ZERO, "edit_lr", "lr_lr")
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params", "n_edit_steps")

    edit_lr: float = 1e-2
    lr: float = 1e-5
    lr_lr: float = 1e-3
    n_edit_steps: int = 1
    first_order: bool = False
    cbase: float = 1.0
