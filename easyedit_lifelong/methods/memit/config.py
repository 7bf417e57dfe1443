"""The native MEMIT's hyperparameters: those of EasyEdit's MEMIT files, under a name of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class NativeMemitHyperParams(LocateEditHyperParams):
    """Hyperparameters of the native MEMIT (arXiv 2210.07229): :class:`LocateEditHyperParams`, and none besides.

    ``alg_name: MEMIT`` means EasyEdit's own method, which is still there.
    """

    ALG_NAME: ClassVar[str] = "MEMIT-native"
