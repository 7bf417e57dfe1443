"""The hyperparameters of the native MEMIT: those of EasyEdit's MEMIT, with a different ``alg_name``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.target_variants_config import TargetVariantHyperParams


@dataclass(kw_only=True)
class NativeMemitHyperParams(TargetVariantHyperParams):
    """Hyperparameters of the native MEMIT (arXiv 2210.07229): those of :class:`TargetVariantHyperParams`, and this.

    ``alg_name: MEMIT`` selects EasyEdit's MEMIT, and ``alg_name: MEMIT-native`` selects this one.

    Attributes:
        accumulate_keys: whether the update of a batch preserves the keys of earlier batches, too. The paper's does not.
    """

    ALG_NAME: ClassVar[str] = "MEMIT-native"
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *TargetVariantHyperParams.SAME_SETTINGS,
        *TargetVariantHyperParams.TARGET_SETTINGS,
        "accumulate_keys",
    )

    accumulate_keys: bool = False
