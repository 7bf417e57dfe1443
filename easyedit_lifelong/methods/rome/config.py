"""The hyperparameters of the native ROME: those of EasyEdit's ROME, with a different ``alg_name``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class NativeRomeHyperParams(LocateEditHyperParams):
    """Hyperparameters of the native ROME (arXiv 2202.05262); see :class:`LocateEditHyperParams` for the others.

    ``alg_name: ROME`` selects EasyEdit's ROME, and ``alg_name: ROME-native`` selects this one. ``layers`` names one
    block, and ``batch_size`` is 1. ``mom2_update_weight`` has no effect, since the length of u cancels.

    Attributes:
        mom2_adjustment: whether u is C⁻¹k rather than k. Without it, no second moments are needed.
        fp16: true stands for ``dtype: float16``, as in EasyEdit's files.
    """

    ALG_NAME: ClassVar[str] = "ROME-native"
    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        name: choices for name, choices in LocateEditHyperParams.CHOICES.items() if name != "mom2_adjustment"
    }
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *(name for name in LocateEditHyperParams.SAME_SETTINGS if name != "mom2_update_weight"),
        "mom2_adjustment",
    )

    clamp_norm_factor: float = 4.0
    context_template_length_params: list[list[int]] = field(default_factory=lambda: [[5, 10], [10, 10]])
    mom2_update_weight: float = 1.0
    fp16: bool = False

    def __post_init__(self) -> None:
        """Convert and check the values; let ``fp16`` set ``dtype``."""
        super().__post_init__()
        if self.fp16 and self.dtype is None:
            self.dtype = "float16"

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if isinstance(self.layers, list) and len(self.layers) > 1 and self.num_layers != 1:
            problems.append(f"layers: {self.layers} must be a single block, since ROME edits one layer")
        if isinstance(self.batch_size, int) and self.batch_size > 1:
            problems.append(f"batch_size: {self.batch_size} must be 1, since ROME edits one fact at a time")
        if self.fp16 is True and self.dtype not in (None, "float16"):
            problems.append(f"fp16: true contradicts dtype {self.dtype!r}; leave one of them out")
        return problems
