"""The hyperparameters of AlphaEdit, with the names of its authors' files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from easyedit_lifelong.methods.locate_edit.config import LocateEditHyperParams


@dataclass(kw_only=True)
class AlphaEditHyperParams(LocateEditHyperParams):
    """Hyperparameters of AlphaEdit (arXiv 2410.02355); see :class:`LocateEditHyperParams` for the others.

    ``mom2_update_weight`` is read from the authors' files and not used.

    Attributes:
        nullspace_threshold: eigenvectors of C₀ = E[kkᵀ] whose eigenvalue is below this span the null space. The scale
            of the eigenvalues differs between models.
        nullspace_energy: use instead the largest null space that holds at most this share of the trace of C₀, which
            does not depend on scale; None: use ``nullspace_threshold``.
        L2: λ in equation 11, the weight of the penalty on the norm of the update.
        c0_weight: weight of C₀ itself among the keys to preserve. The paper has 0. With more, the directions that the
            null space keeps are penalised by how much ordinary text uses them.
        P_loc: read from EasyEdit's files; not used: the projector is computed from the second moments.
    """

    ALG_NAME: ClassVar[str] = "AlphaEdit"
    AT_LEAST: ClassVar[Mapping[str, float]] = {**LocateEditHyperParams.AT_LEAST, "c0_weight": 0}
    ABOVE_ZERO: ClassVar[tuple[str, ...]] = (
        *LocateEditHyperParams.ABOVE_ZERO,
        *("nullspace_threshold", "nullspace_energy", "L2"),
    )
    SAME_SETTINGS: ClassVar[tuple[str, ...]] = (
        *LocateEditHyperParams.SAME_SETTINGS,
        *("nullspace_threshold", "nullspace_energy", "L2", "c0_weight"),
    )

    nullspace_threshold: float = 2e-2
    nullspace_energy: float | None = None
    L2: float = 10.0
    c0_weight: float = 0.0
    P_loc: str | None = None

    def check(self) -> list[str]:
        """Return a message for every problem that concerns more than the type and range of one value."""
        problems = super().check()
        energy = self.nullspace_energy
        if isinstance(energy, float) and energy >= 1:
            problems.append(f"nullspace_energy: {energy} is a share of the trace, so it must be below 1")
        return problems
