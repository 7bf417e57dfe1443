"""The null space of ordinary keys; the solvers of AlphaEdit and EvoEdit against the papers' equations in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.null_space import EvolvingNullSpace, NullSpaceKeys, null_space_basis

SIZE, WIDTH = 12, 7


def moment_with(values: Tensor, seed: int = 0) -> Tensor:
    """Return a second moment with these eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return (basis * values) @ basis.t()


def batches(seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Return keys and residuals of four batches: more keys than the null space has dimensions."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(SIZE, count, generator=generator, dtype=torch.float64),
            torch.randn(WIDTH, count, generator=generator, dtype=torch.float64),
        )
        for count in (2, 1, 5, 3)
    ]


VALUES = torch.logspace(-4, 1, SIZE, dtype=torch.float64)
MOMENT = moment_with(VALUES)


def solver(**options: float) -> NullSpaceKeys:
    return NullSpaceKeys(MOMENT, 0.7, 2e-2, dtype=torch.float64, **options)


def test_the_basis_spans_the_eigenvectors_below_the_threshold() -> None:
    basis = null_space_basis(MOMENT, 2e-2)
    assert basis.shape == (SIZE, int((VALUES < 2e-2).sum()))
    torch.testing.assert_close(basis.t() @ basis, torch.eye(basis.shape[1], dtype=torch.float64))
    assert float(torch.linalg.eigvalsh(basis.t() @ MOMENT @ basis).max()) < 2e-2


@pytest.mark.parametrize("energy", [1e-4, 0.01, 0.3])
def test_a_share_of_the_trace_does_not_depend_on_the_scale(energy: float) -> None:
    basis = null_space_basis(MOMENT, 1.0, energy)
    count = basis.shape[1]
    assert VALUES[:count].sum() <= energy * VALUES.sum() < VALUES[: count + 1].sum()
    torch.testing.assert_close(null_space_basis(1000 * MOMENT, 1.0, energy).abs(), basis.abs())


@pytest.mark.parametrize(
    ("moment", "options", "message"),
    [
        (MOMENT, (1e-6, None), "nullspace_threshold: no eigenvalue .* below 1e-06; the smallest is 0.0001"),
        (MOMENT, (1.0, 1e-9), "nullspace_energy: the smallest eigenvalue holds more than 1e-09"),
        (MOMENT.clone().fill_(float("nan")), (1.0, None), "NaN or infinite"),
    ],
    ids=["threshold", "energy", "NaN"],
)
def test_a_moment_without_a_null_space_is_refused(moment: Tensor, options: tuple[float, float], message: str) -> None:
    with pytest.raises(EditError, match=message):
        null_space_basis(moment, *options)


@pytest.mark.parametrize("c0_weight", [0.0, 3.0])
def test_updates_are_those_of_the_equation(c0_weight: float) -> None:
    """X = (P(K Kᵀ + K' K'ᵀ + w C₀) + λ I)⁻¹ P K Rᵀ and W += Xᵀ, with a dense projector."""
    ours = solver(c0_weight=c0_weight)
    projector = ours.basis @ ours.basis.t()
    earlier = c0_weight * MOMENT
    for keys, residual in batches():
        left = projector @ (keys @ keys.t() + earlier) + 0.7 * torch.eye(SIZE, dtype=torch.float64)
        expected = torch.linalg.solve(left, projector @ keys @ residual.t()).t()
        update = ours.update(keys, residual)
        torch.testing.assert_close(update.matrix(), expected, rtol=1e-8, atol=1e-10)
        ours.add(update.keys)
        earlier = earlier + keys @ keys.t()


def test_outputs_for_keys_outside_of_the_null_space_stay() -> None:
    keys, residual = batches()[0]
    update = solver().update(keys, residual).matrix()
    large = torch.linalg.eigh(MOMENT)[1][:, VALUES > 2e-2]
    assert float((update @ large).abs().max()) < 1e-12 < 0.05 < float((update @ keys).abs().max())


def test_forgetting_later_keys_is_as_if_they_had_never_been_added() -> None:
    cut, short = solver(), solver()
    (first, _), (second, _), (third, _), (last, residual) = batches()
    for keys in (first, second, third):
        cut.add(keys)
    cut.truncate(first.shape[1])
    short.add(first)
    torch.testing.assert_close(cut.update(last, residual).adjusted, short.update(last, residual).adjusted)


WIDE = 40
WIDE_VALUES = torch.logspace(-4, 1, WIDE, dtype=torch.float64)
WIDE_MOMENT = moment_with(WIDE_VALUES)


def evolving(dtype: torch.dtype = torch.float64) -> EvolvingNullSpace:
    """Return a solver whose null space has 18 dimensions."""
    return EvolvingNullSpace(WIDE_MOMENT, 0.7, 2e-2, dtype=dtype)


def wide_keys(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return keys and a residual."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(WIDE, count, generator=generator, dtype=torch.float64)
    return keys, torch.randn(WIDTH, count, generator=generator, dtype=torch.float64)


def test_an_evolving_projector_is_that_onto_what_is_orthogonal_to_all_earlier_keys() -> None:
    """X = (P K Kᵀ + λ I)⁻¹ P K Rᵀ, where P projects onto the null space of C₀ without the projections of all keys."""
    ours = evolving()
    fixed = ours.basis @ ours.basis.t()
    earlier = torch.empty(WIDE, 0, dtype=torch.float64)
    for number, count in enumerate((2, 1, 5, 3)):
        keys, residual = wide_keys(count, number)
        used, _ = torch.linalg.qr(fixed @ earlier)
        projector = fixed - used @ used.t()
        torch.testing.assert_close(ours.projector(), projector, rtol=0, atol=1e-12)
        left = projector @ keys @ keys.t() + 0.7 * torch.eye(WIDE, dtype=torch.float64)
        expected = torch.linalg.solve(left, projector @ keys @ residual.t()).t()
        update = ours.update(keys, residual)
        torch.testing.assert_close(update.matrix(), expected, rtol=1e-8, atol=1e-10)
        if earlier.shape[1]:
            assert float((update.matrix() @ earlier).abs().max()) < 1e-12 < 0.05 < float((expected @ keys).abs().max())
        ours.add(update.keys)
        earlier = torch.cat([earlier, keys], dim=1)


def test_an_evolving_projector_forgets_the_keys_of_later_batches_bitwise() -> None:
    ours, expected = evolving(), evolving()
    for number in range(3):
        ours.add(wide_keys(2, number)[0])
    expected.add(wide_keys(2, 0)[0])
    ours.truncate(2)
    assert torch.equal(ours.projector(), expected.projector())
    keys, residual = wide_keys(3, 9)
    assert torch.equal(ours.update(keys, residual).adjusted, expected.update(keys, residual).adjusted)
    with pytest.raises(ValueError, match="end within a batch; the batch begins after key 0"):
        ours.truncate(1)
    ours.truncate(0)
    assert torch.equal(ours.projector(), evolving().projector())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_key_of_an_earlier_batch_gets_no_update_and_does_not_change_that_of_other_keys(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    ours = evolving(dtype)
    keys, _ = wide_keys(2, 0)
    ours.add(keys)
    new, residual = wide_keys(3, 1)
    new[:, 1] = keys[:, 1]
    update = ours.update(new, residual)
    assert not update.adjusted[:, 1].any()
    alone = ours.update(new[:, [0, 2]], residual[:, [0, 2]])
    torch.testing.assert_close(update.matrix(), alone.matrix(), rtol=1e-6, atol=1e-8)
    assert "excludes the keys of these requests of the batch: 2." in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_nothing_but_earlier_keys_is_refused_and_leaves_the_projector_as_it_is(dtype: torch.dtype) -> None:
    ours = evolving(dtype)
    keys, residual = wide_keys(2, 0)
    ours.add(keys)
    before = ours.projector()
    with pytest.raises(EditError, match=r"excludes the key of every request of the batch: .* use projector: fixed"):
        ours.update(keys, residual)
    assert torch.equal(ours.projector(), before)


def test_a_used_up_null_space_is_refused() -> None:
    ours = evolving()
    for number in range(6):
        ours.add(wide_keys(3, number)[0])
    with pytest.raises(EditError, match=r"used up the null space \(0 of its 18 dimensions are left\)"):
        ours.update(*wide_keys(1, 9))


def test_keys_that_are_not_finite_are_refused_by_an_evolving_projector() -> None:
    keys, residual = wide_keys(2, 0)
    keys[0, 1] = float("nan")
    with pytest.raises(EditError, match="the new keys are NaN or infinite"):
        evolving().update(keys, residual)
