"""The hyperparameters of Template-Edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong import PluginHyperParams


@dataclass(kw_only=True)
class TemplateEditHyperParams(PluginHyperParams):
    """Hyperparameters of Template-Edit.

    Attributes:
        strength: the constant that is added to the logit of the target's first token.
    """

    ALG_NAME: ClassVar[str] = "Template-Edit"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("strength",)

    strength: float = 100.0
