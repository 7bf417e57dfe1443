"""The hyperparameters of KE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.hypernetworks.config import HypernetworkHyperParams


@dataclass(kw_only=True)
class KEHyperParams(HypernetworkHyperParams):
    """Hyperparameters of KE (arXiv 2104.08164); those of its training are in :class:`HypernetworkHyperParams`.

    The network with the smallest c_edit · (negative log-likelihood) + c_loc · (KL divergence) on held-out records is
    kept. The training itself minimises another loss, with a multiplier in place of c_edit and c_loc.

    Attributes:
        hidden_dim: width of the LSTM in each direction, and of the hidden layer of each projection.
        condition_dim: width of the vector that represents an edit.
        max_scale: s, the largest factor of an update.
        kl_margin: m, the largest KL divergence on locality prompts that the training allows, in nats per token.
        lr_multiplier: learning rate of λ, the multiplier of this constraint (Adam).
    """

    ALG_NAME: ClassVar[str] = "KE"
    AT_LEAST: ClassVar[Mapping[str, float]] = {
        **HypernetworkHyperParams.AT_LEAST,
        "hidden_dim": 1,
        "condition_dim": 1,
        "kl_margin": 0,
        "lr_multiplier": 0,
    }
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*HypernetworkHyperParams.ABOVE_ZERO, "max_scale")
    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params", "hidden_dim", "condition_dim", "max_scale")

    hidden_dim: int = 128
    condition_dim: int = 1024
    max_scale: float = 1.0
    kl_margin: float = 1e-3
    lr_multiplier: float = 0.1
    lr: float = 3e-4
    kl_tokens: str = "answer"
