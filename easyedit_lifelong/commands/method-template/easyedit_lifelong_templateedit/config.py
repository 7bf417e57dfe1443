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
        tolerance: distance from an edit's key within which the edit acts, relative to the norm of the key. A batch or a
            KV cache moves the hidden states of SmolLM2-135M in bfloat16 by up to 0.03; those of different prompts were
            0.2 and more apart.
    """

    ALG_NAME: ClassVar[str] = "Template-Edit"
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = ("strength", "tolerance")

    strength: float = 100.0
    tolerance: float = 0.1
