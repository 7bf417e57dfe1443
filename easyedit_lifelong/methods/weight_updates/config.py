"""Base class of the hyperparameters of methods that write updates into weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.hyperparams import PluginHyperParams


@dataclass(kw_only=True)
class WeightUpdateHyperParams(PluginHyperParams):
    """Base class of the hyperparameters of methods that write updates into weights."""

    SAME_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """The names of the fields that all batches on a model must share."""

    @property
    def rewrite_modules(self) -> list[str]:
        """The paths of the edited projections, from the first layer to the last."""
        raise NotImplementedError
