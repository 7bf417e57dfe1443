"""The hyperparameters of AlphaEdit, with the names of its authors' files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.null_space_config import NullSpaceHyperParams
from easyedit_lifelong.methods.locate_edit.target_variants_config import TargetVariantHyperParams


@dataclass(kw_only=True)
class AlphaEditHyperParams(TargetVariantHyperParams, NullSpaceHyperParams):
    """Hyperparameters of AlphaEdit (arXiv 2410.02355).

    They are those of :class:`NullSpaceHyperParams` and of :class:`TargetVariantHyperParams`. ``mom2_update_weight`` is
    read from the authors' files and not used.
    """

    ALG_NAME: ClassVar[str] = "AlphaEdit"
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *NullSpaceHyperParams.SAME_SETTINGS,
        *TargetVariantHyperParams.TARGET_SETTINGS,
    )
