"""The solver of AlphaEdit: updates that leave the outputs for ordinary text as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate


def null_space_basis(moment: Tensor, threshold: float, energy: float | None = None) -> Tensor:
    """Return an orthonormal basis U of the null space of ordinary keys; the projector is P = U Uᵀ.

    Args:
        moment: C₀ = E[kkᵀ], shape ``(d, d)``.
        threshold: the null space is spanned by the eigenvectors of C₀ whose eigenvalue is below this.
        energy: if given, the largest null space that holds at most this share of the trace of C₀, instead.

    Returns:
        Shape ``(d, dimensions)``, in float64.

    Raises:
        EditError: no eigenvalue is that small, or the moment is not finite.
    """
    if not torch.isfinite(moment).all():
        raise EditError("the null space can't be computed: the second moments hold NaN or infinite values")
    values, vectors = torch.linalg.eigh(moment.double())
    if energy is None:
        count = int((values < threshold).sum())
        setting = f"nullspace_threshold: no eigenvalue of the second moments is below {threshold:g}"
    else:
        count = int((values.clamp(min=0).cumsum(0) <= energy * values.clamp(min=0).sum()).sum())
        setting = f"nullspace_energy: the smallest eigenvalue holds more than {energy:g} of the trace"
    if not count:
        raise EditError(f"{setting}; the smallest is {float(values[0]):.3g}, the largest {float(values[-1]):.3g}")
    return vectors[:, :count]


class NullSpaceKeys:
    """A :class:`~easyedit_lifelong.methods.locate_edit.update.Solver` with the update of AlphaEdit (equation 11).

    With the projector P, the keys K' of earlier batches and the keys K of this one,

        Δ = R Kᵀ P (K'K'ᵀ P + K Kᵀ P + λ I)⁻¹.

    In the coordinates of a basis U of the null space this is the update of :class:`AccumulatedKeys` for the keys UᵀK
    with the moment I and the weight λ: a symmetric system, which costs d·n operations for every key instead of the d³
    of the equation above.

    Args:
        moment: C₀ = E[kkᵀ], shape ``(d, d)``.
        penalty: λ, ``L2``.
        threshold: see :func:`null_space_basis`.
        energy: see :func:`null_space_basis`.
        c0_weight: adds this multiple of C₀ to K'K'ᵀ.
        device: the device of the computations.
        dtype: the dtype of stored keys and of updates.
    """

    def __init__(
        self,
        moment: Tensor,
        penalty: float,
        threshold: float,
        energy: float | None = None,
        c0_weight: float = 0.0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.basis = null_space_basis(moment.to(device), threshold, energy)
        self.dtype = dtype
        base = penalty * torch.eye(self.basis.shape[1], dtype=torch.float64, device=self.basis.device)
        if c0_weight:
            base += c0_weight * (self.basis.t() @ moment.to(self.basis) @ self.basis)
        self._projected = AccumulatedKeys(base, 1.0, device=device, dtype=torch.float64)

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return the update; see :meth:`Solver.update`."""
        keys = keys.to("cpu", self.dtype)
        solution = self._projected.solve(self._project(keys))
        return LayerUpdate(keys, (self.basis @ solution).to("cpu", self.dtype), residual.to("cpu", self.dtype))

    def add(self, keys: Tensor) -> None:
        """Add keys, shape ``(d, n)``, to K'."""
        self._projected.add(self._project(keys.to("cpu", self.dtype)))

    def truncate(self, count: int) -> None:
        """Forget all keys after the first ``count``."""
        self._projected.truncate(count)

    def _project(self, keys: Tensor) -> Tensor:
        """Return UᵀK, shape ``(dimensions, n)``, in float64."""
        return self.basis.t() @ keys.to(self.basis)
