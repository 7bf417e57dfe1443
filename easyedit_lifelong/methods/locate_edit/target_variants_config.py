"""The hyperparameters of variants of MEMIT's target vectors: BLUE and NAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams

MEASURE = "auto"
"""The value of ``norm_anchor`` with which the norm is measured."""


@dataclass(kw_only=True)
class TargetVariantHyperParams(LocateEditHyperParams):
    """Hyperparameters of variants of the target vectors. Each is off by default.

    Attributes:
        blue: edit only the first and the last of ``layers``, each towards its own target vectors at its own output,
            with the complete residual (BLUE, arXiv 2502.03748).
        norm_anchor: the norm to which the value v* of every fact is scaled (NAS, arXiv 2602.02543). v* is the output of
            the edited MLP projection at the lookup token with which the block's output is z. A number, or ``auto``: the
            mean norm of v* over sample facts on the base model; None: leave v* as it is.
    """

    TARGET_SETTINGS: ClassVar[tuple[str, ...]] = ("blue", "norm_anchor")
    """The names of these hyperparameters."""

    blue: bool = False
    norm_anchor: float | str | None = None

    @property
    def edited_layers(self) -> list[int]:
        """The numbers of the edited blocks, in ascending order."""
        return [self.layers[0], self.layers[-1]] if self.blue else super().edited_layers

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        if self.blue and isinstance(self.layers, list) and len(self.layers) < 2:
            problems.append(f"blue: edits the first and the last of layers, which has only {self.layers}")
        if self.blue and self.num_layers is not None:
            problems.append("num_layers: can't be given with blue, which edits the first and the last of layers")
        anchor = self.norm_anchor
        if isinstance(anchor, str) and anchor != MEASURE:
            problems.append(f"norm_anchor: {anchor!r} is neither a number nor {MEASURE!r}")
        if isinstance(anchor, float) and anchor <= 0:
            problems.append(f"norm_anchor: {anchor} must be greater than 0")
        return problems
