"""The hyperparameters of the native MEMIT: those of EasyEdit's MEMIT, with a different ``alg_name``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class NativeMemitHyperParams(LocateEditHyperParams):
    """Hyperparameters of the native MEMIT (arXiv 2210.07229); see :class:`LocateEditHyperParams`.

    ``alg_name: MEMIT`` selects EasyEdit's MEMIT, and ``alg_name: MEMIT-native`` selects this one.
    """

    ALG_NAME: ClassVar[str] = "MEMIT-native"
