"""The hyperparameters of Defer and Memory network, with the names of EasyEdit's DEFER files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.weight_updates.config import NamedProjectionsHyperParams


@dataclass(kw_only=True)
class AdaptorHyperParams(NamedProjectionsHyperParams):
    """Hyperparameters that Defer and Memory network share.

    Attributes:
        inner_params: a list of one projection, whose output is replaced: dotted or bracketed name of the module or of
            its weight.
        edit_lr: learning rate of Adam, whose state is new for each request.
        n_iter: number of optimisation steps for a request.
    """

    AT_LEAST: ClassVar[Mapping[str, float]] = {**NamedProjectionsHyperParams.AT_LEAST, "n_iter": 1}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("edit_lr",)
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ("inner_params", "seed")

    edit_lr: float = 1e-1
    n_iter: int = 100

    @property
    def writes_weights(self) -> bool:
        """Whether updates are added to the model's own weights: no, the adaptor has its own parameters."""
        return False

    def check(self) -> list[str]:
        """Return a message if not exactly one projection is named."""
        names = self.inner_params
        if not isinstance(names, list) or len(names) == 1:
            return []  # another check reports a value of another type
        return [f"inner_params: {self.ALG_NAME} edits one layer, {len(names)} are named"]


@dataclass(kw_only=True)
class DeferHyperParams(AdaptorHyperParams):
    """Hyperparameters of Defer, a baseline of GRACE (arXiv 2211.11031); see :class:`AdaptorHyperParams`.

    ``alg_name: EasyEdit/DEFER`` selects EasyEdit's DEFER, and ``alg_name: Defer-native`` selects this one.

    Attributes:
        threshold: the trained value replaces the output where the gate is at least this.
    """

    ALG_NAME: ClassVar[str] = "Defer-native"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (*AdaptorHyperParams.ABOVE_ZERO, "threshold")
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (*AdaptorHyperParams.SAME_SETTINGS, "threshold")

    threshold: float = 0.5

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        too_high = isinstance(self.threshold, float) and self.threshold >= 1
        return super().check() + ([f"threshold: {self.threshold} must be less than 1"] if too_high else [])


@dataclass(kw_only=True)
class MemoryHyperParams(AdaptorHyperParams):
    """Hyperparameters of Memory network, a baseline of GRACE (arXiv 2211.11031); see :class:`AdaptorHyperParams`.

    Attributes:
        nkeys: number of slots.
    """

    ALG_NAME: ClassVar[str] = "Memory"
    AT_LEAST: ClassVar[Mapping[str, float]] = {**AdaptorHyperParams.AT_LEAST, "nkeys": 1}
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (*AdaptorHyperParams.SAME_SETTINGS, "nkeys")

    nkeys: int = 100
