"""The hyperparameters of updates within the null space of ordinary keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class NullSpaceHyperParams(LocateEditHyperParams):
    """Hyperparameters of updates within the null space of ordinary keys (AlphaEdit, arXiv 2410.02355).

    Attributes:
        nullspace_threshold: eigenvectors of C₀ = E[kkᵀ] whose eigenvalue is below this span the null space. The scale
            of the eigenvalues differs between models.
        nullspace_energy: use instead the largest null space that holds at most this share of the trace of C₀, which
            does not depend on scale; None: use ``nullspace_threshold``.
        L2: λ in equation 11, the weight of the penalty on the norm of the update.
        c0_weight: weight of C₀ itself among the keys to preserve. The paper has 0. With more, the directions that the
            null space keeps are penalised by how much ordinary text uses them.
        projector: how updates preserve the keys of earlier batches. ``fixed``: the projector onto the null space stays,
            and the equation has the keys of earlier batches (AlphaEdit). ``evolving``: the projector excludes the keys
            of earlier batches (EvoEdit, arXiv 2510.13851).
        P_loc: read from EasyEdit's files; not used: the projector is computed from the second moments.
    """

    CHOICES: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **LocateEditHyperParams.CHOICES,
        "projector": ("fixed", "evolving"),
    }
    AT_LEAST: ClassVar[Mapping[str, float]] = {**LocateEditHyperParams.AT_LEAST, "c0_weight": 0}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (
        *LocateEditHyperParams.ABOVE_ZERO,
        *("nullspace_threshold", "nullspace_energy", "L2"),
    )
    NULL_SPACE_SETTINGS: ClassVar[tuple[str, ...]] = (
        "nullspace_threshold",
        "nullspace_energy",
        "L2",
        "c0_weight",
        "projector",
    )
    """The hyperparameters that determine the updates."""
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (*LocateEditHyperParams.SAME_SETTINGS, *NULL_SPACE_SETTINGS)

    nullspace_threshold: float = 2e-2
    nullspace_energy: float | None = None
    L2: float = 10.0
    c0_weight: float = 0.0
    projector: str = "fixed"
    P_loc: str | None = None

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        energy = self.nullspace_energy
        if isinstance(energy, float) and energy >= 1:
            problems.append(f"nullspace_energy: {energy} is a share of the trace, so it must be below 1")
        if self.projector == "evolving" and self.c0_weight:
            problems.append("c0_weight: needs projector: fixed; the equation of an evolving projector has no C₀")
        return problems
