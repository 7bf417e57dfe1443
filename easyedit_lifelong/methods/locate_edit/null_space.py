"""The solvers of AlphaEdit and EvoEdit: updates that leave the outputs for ordinary text as they are."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.null_space_config import NullSpaceHyperParams
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, Solver
from easyedit_lifelong.methods.weight_updates.layer_update import LayerUpdate

LOG = logging.getLogger(__name__)

_SMALLEST_DIRECTION = 1e-10
"""Directions of projected keys with a smaller singular value stay in the null space, as in EvoEdit's code."""
_SMALLEST_SHARE = 1e-6
"""A key is excluded if the projector leaves no larger share of its norm within the null space of ordinary keys."""


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


class EvolvingNullSpace:
    """A :class:`~easyedit_lifelong.methods.locate_edit.update.Solver` with the update of EvoEdit (arXiv 2510.13851).

    The projector P excludes the keys of earlier batches. With the keys K of this batch,

        Δ = R (KᵀPK + λ I)⁻¹ KᵀP,

    a system of n equations. Then P ← P - QQᵀ, where the columns of Q are an orthonormal basis of the columns of PK.
    So later updates change no output for the keys K, and each batch uses up as many dimensions of the null space as it
    has independent keys. A key that an earlier batch had has PK = 0: its edit gets no update, with a warning.

    P is kept as U Uᵀ - (UQ)(UQ)ᵀ, where U is a basis of the null space of ordinary keys and Q, shape
    ``(dimensions, directions)``, is in the coordinates of U.

    Args:
        moment: C₀ = E[kkᵀ], shape ``(d, d)``.
        penalty: λ, ``L2``.
        threshold: see :func:`null_space_basis`.
        energy: see :func:`null_space_basis`.
        device: the device of the computations.
        dtype: the dtype of stored keys and of updates.
    """

    def __init__(
        self,
        moment: Tensor,
        penalty: float,
        threshold: float,
        energy: float | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.basis = null_space_basis(moment.to(device), threshold, energy)
        self.penalty, self.dtype = penalty, dtype
        self._used = self.basis.new_empty(self.basis.shape[1], 0)  # Q
        self._ends = [(0, 0)]  # the numbers of keys and of directions after each batch

    def projector(self) -> Tensor:
        """Return P, shape ``(d, d)``, in float64."""
        used = self.basis @ self._used
        return self.basis @ self.basis.t() - used @ used.t()

    def update(self, keys: Tensor, residual: Tensor) -> LayerUpdate:
        """Return the update; see :meth:`Solver.update`.

        The columns of ``adjusted`` of keys that the projector excludes are zero.

        Raises:
            EditError: a key is not finite, or the projector excludes all keys.
        """
        keys = keys.to("cpu", self.dtype)
        projected = self._project(keys)
        projected[:, self._excluded(keys, projected)] = 0.0
        gram = projected.t() @ projected
        gram.diagonal().add_(self.penalty)
        adjusted = self.basis @ torch.cholesky_solve(projected.t(), torch.linalg.cholesky(gram)).t()
        return LayerUpdate(keys, adjusted.to("cpu", self.dtype), residual.to("cpu", self.dtype))

    def add(self, keys: Tensor) -> None:
        """Exclude keys, shape ``(d, n)``, from the null space."""
        projected = self._project(keys.to("cpu", self.dtype))
        directions, sizes, _ = torch.linalg.svd(projected, full_matrices=False)
        rounding = max(projected.shape) * torch.finfo(sizes.dtype).eps * float(sizes.max())
        self._used = torch.cat([self._used, directions[:, sizes > max(rounding, _SMALLEST_DIRECTION)]], dim=1)
        self._ends.append((self._ends[-1][0] + keys.shape[1], self._used.shape[1]))

    def truncate(self, count: int) -> None:
        """Forget all keys after the first ``count``, which must be those of complete batches."""
        self._ends = [end for end in self._ends if end[0] <= count]
        keys, directions = self._ends[-1]
        if keys < count:
            raise ValueError(f"{count} keys end within a batch; the batch begins after key {keys}")
        self._used = self._used[:, :directions].clone()

    def _project(self, keys: Tensor) -> Tensor:
        """Return UᵀPK, shape ``(dimensions, n)``, in float64."""
        projected = self.basis.t() @ keys.to(self.basis)
        for _ in range(2):  # the second time removes the rounding error of the first
            projected = projected - self._used @ (self._used.t() @ projected)
        return projected

    def _excluded(self, keys: Tensor, projected: Tensor) -> Tensor:
        """Return which keys the projector excludes, shape ``(n,)``, and warn of them.

        Args:
            keys: the keys, shape ``(d, n)``.
            projected: UᵀPK, shape ``(dimensions, n)``.

        Raises:
            EditError: a key is not finite, or the projector excludes all keys.
        """
        if not torch.isfinite(projected).all():
            raise EditError("the update can't be computed: the new keys are NaN or infinite")
        sizes = (self.basis.t() @ keys.to(self.basis)).norm(dim=0)
        excluded = projected.norm(dim=0) <= _SMALLEST_SHARE * sizes
        left = self.basis.shape[1] - self._used.shape[1]
        reason = (
            f"earlier batches have the same key, or have used up the null space ({left} of its {self.basis.shape[1]} "
            "dimensions are left). Roll earlier batches back, choose a larger null space, or use projector: fixed"
        )
        if excluded.all():
            raise EditError(f"the projector excludes the key of every request of the batch: {reason}")
        if excluded.any():
            numbers = ", ".join(str(index + 1) for index in excluded.nonzero().flatten().tolist())
            LOG.warning(
                "the projector excludes the keys of these requests of the batch: %s. They get no update in "
                "this layer: %s",
                numbers,
                reason,
            )
        return excluded


def null_space_solver(
    hparams: NullSpaceHyperParams, moment: Tensor, device: torch.device, dtype: torch.dtype
) -> Solver:
    """Return the solver that the hyperparameters name, without keys.

    Args:
        hparams: the hyperparameters of the null space.
        moment: C₀ = E[kkᵀ] of the layer, shape ``(d, d)``.
        device: the device to solve on.
        dtype: the dtype of keys and updates.

    Raises:
        EditError: C₀ has no null space.
    """
    threshold, energy = hparams.nullspace_threshold, hparams.nullspace_energy
    if hparams.projector == "evolving":
        return EvolvingNullSpace(moment, hparams.L2, threshold, energy, device=device, dtype=dtype)
    return NullSpaceKeys(moment, hparams.L2, threshold, energy, hparams.c0_weight, device=device, dtype=dtype)
