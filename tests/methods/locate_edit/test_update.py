"""The solve for updates, compared with the direct solve, and with second moments and keys that cannot be used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, SeparateBatches, solving_device
from tests.support.random_keys import random_keys, random_moment
from tests.support.thoroughness import examples

close = torch.testing.assert_close


@examples(60)
@given(
    size=st.integers(1, 12),
    batches=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    weight=st.sampled_from([1e-3, 1.0, 15000.0]),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
    ridge=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 1000),
)
def test_the_factored_solve_equals_the_direct_one(
    size: int, batches: list[int], weight: float, scale: float, ridge: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    moment = random_moment(size, generator)
    c_accu = moment * weight
    c_accu += ridge * c_accu.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    accumulated = AccumulatedKeys(moment, weight, ridge=ridge, dtype=torch.float64)
    base = c_accu
    for count in batches:
        keys = random_keys(size, count, generator, scale)
        c_accu = c_accu + keys @ keys.t()
        direct = torch.linalg.solve(c_accu, keys)
        # The error of either solve grows with the condition number of the matrix that it factors.
        condition = max(float(torch.linalg.cond(c_accu)), float((keys * torch.linalg.solve(base, keys)).sum()))
        tolerance = 1e-12 + 1e-15 * condition
        assert float((accumulated.solve(keys) - direct).norm()) <= tolerance * float(direct.norm())
        accumulated.add(keys)
        close(accumulated.matrix(), c_accu, rtol=1e-12, atol=1e-12 * float(c_accu.abs().max()))


def test_a_small_weight_of_old_knowledge_costs_no_precision() -> None:
    # With λ E[kkᵀ] = 0.001 I, the textbook form of the Woodbury identity loses ten digits by cancellation.
    generator = torch.Generator().manual_seed(0)
    keys = random_keys(12, 4, generator, 30.0)
    solution = AccumulatedKeys(torch.eye(12), 1e-3, dtype=torch.float64).solve(keys)
    # (λI + KKᵀ)⁻¹ K through the singular values of K.
    u, s, vt = torch.linalg.svd(keys, full_matrices=False)
    close(solution, u @ torch.diag(s / (1e-3 + s.square())) @ vt, rtol=1e-11, atol=1e-15)


def test_solving_does_not_accumulate_the_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    accumulated = AccumulatedKeys(random_moment(6, generator), 1.0, dtype=torch.float64)
    accumulated.add(random_keys(6, 2, generator))
    keys, before = random_keys(6, 3, generator), accumulated.matrix()
    first = accumulated.solve(keys)
    assert torch.equal(accumulated.solve(keys), first)
    assert torch.equal(accumulated.matrix(), before)


def test_keys_are_accumulated_the_same_whether_they_were_solved_for_before() -> None:
    generator = torch.Generator().manual_seed(0)
    moment, batches = random_moment(6, generator), [random_keys(6, 2, generator) for _ in range(4)]
    plain, solved = (AccumulatedKeys(moment, 1.0, dtype=torch.float64) for _ in range(2))
    for keys in batches:  # the third reaches the number of dimensions, so that keys are folded into the factor
        plain.add(keys)
        solved.solve(keys + 1)
        solved.solve(keys)
        solved.add(keys)
        assert torch.equal(solved.matrix(), plain.matrix())
        close(solved.solve(batches[0]), plain.solve(batches[0]), rtol=1e-12, atol=1e-15)
    solved.truncate(3)
    plain.truncate(3)
    solved.add(batches[0])  # these keys were solved for before the others were truncated
    plain.add(batches[0])
    close(solved.solve(batches[1]), plain.solve(batches[1]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kept", range(15))
def test_truncated_keys_have_no_effect_on_later_solves(kept: int) -> None:
    # 14 keys in 6 dimensions are folded into the factor after the second batch and again after the fifth.
    generator = torch.Generator().manual_seed(1)
    moment = random_moment(6, generator)
    batches = [random_keys(6, n, generator) for n in (3, 4, 2, 1, 4)]
    accumulated = AccumulatedKeys(moment, 0.5, dtype=torch.float64)
    for keys in batches:
        accumulated.add(keys)
    accumulated.truncate(kept)
    kept_keys = torch.cat(batches, dim=1)[:, :kept]
    assert torch.equal(accumulated.keys, kept_keys)
    c_accu = 0.5 * moment + kept_keys @ kept_keys.t()
    close(accumulated.matrix(), c_accu)
    for _ in range(3):
        new = random_keys(6, 3, generator)
        c_accu = c_accu + new @ new.t()
        close(accumulated.solve(new), torch.linalg.solve(c_accu, new))
        accumulated.add(new)


def test_keys_are_truncated_twice_after_they_were_folded() -> None:
    generator = torch.Generator().manual_seed(2)
    moment = random_moment(4, generator)
    keys = random_keys(4, 9, generator)
    accumulated = AccumulatedKeys(moment, 1.0, dtype=torch.float64)
    accumulated.add(keys)
    accumulated.truncate(5)
    accumulated.truncate(3)
    assert accumulated.keys.shape == (4, 3)
    c_accu = moment + keys[:, :3] @ keys[:, :3].t() + keys[:, 3:5] @ keys[:, 3:5].t()
    close(accumulated.solve(keys[:, 3:5]), torch.linalg.solve(c_accu, keys[:, 3:5]))


def test_truncating_no_keys_changes_no_solution() -> None:
    generator = torch.Generator().manual_seed(3)
    accumulated = AccumulatedKeys(random_moment(5, generator), 1.0, dtype=torch.float64)
    accumulated.add(random_keys(5, 3, generator))
    new = random_keys(5, 2, generator)
    before = accumulated.solve(new)
    accumulated.truncate(3)
    assert torch.equal(accumulated.solve(new), before)


def test_a_repeated_key_counts_twice() -> None:
    generator = torch.Generator().manual_seed(4)
    moment, key = random_moment(5, generator), random_keys(5, 1, generator)
    twice = torch.cat([key, key], dim=1)
    solution = AccumulatedKeys(moment, 1.0, dtype=torch.float64).solve(twice)
    close(solution, torch.linalg.solve(moment + 2 * key @ key.t(), twice))


def test_keys_are_accumulated_in_the_precision_in_which_they_are_stored() -> None:
    # Layers store keys in float32. Loaded keys must give the C_accu that the edits were solved with.
    generator = torch.Generator().manual_seed(5)
    moment, keys = random_moment(5, generator), random_keys(5, 3, generator)
    accumulated = AccumulatedKeys(moment, 1.0)
    accumulated.add(keys)
    stored = keys.float().double()
    close(accumulated.matrix(), moment + stored @ stored.t(), rtol=1e-14, atol=1e-14)


def test_singular_second_moments_are_refused_unless_they_get_a_ridge() -> None:
    moment = torch.zeros(4, 4)
    moment[0, 0] = 1.0
    with pytest.raises(EditError, match=r"second moments .*mom2_n_tokens"):
        AccumulatedKeys(moment, 1.0).solve(torch.ones(4, 1))
    solution = AccumulatedKeys(moment, 1.0, ridge=0.01).solve(torch.ones(4, 1))
    close(
        solution, torch.linalg.solve(moment.double() + 0.0025 * torch.eye(4).double() + 1.0, torch.ones(4, 1).double())
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_inf_are_refused_and_leave_the_solver_unchanged(number: float) -> None:
    generator = torch.Generator().manual_seed(6)
    accumulated = AccumulatedKeys(random_moment(4, generator), 1.0, dtype=torch.float64)
    accumulated.add(random_keys(4, 2, generator))
    usable, unusable = random_keys(4, 2, generator), random_keys(4, 2, generator)
    unusable[1, 1] = number
    before, matrix = accumulated.solve(usable), accumulated.matrix()
    for call in (accumulated.solve, accumulated.add):
        with pytest.raises(EditError, match="can't be computed"):
            call(unusable)
    assert torch.equal(accumulated.solve(usable), before)
    assert torch.equal(accumulated.matrix(), matrix)
    moment = random_moment(4, generator)
    moment[2, 2] = number
    with pytest.raises(EditError, match="second moments"):
        AccumulatedKeys(moment, 1.0).solve(usable)


def test_separate_batches_ignore_the_keys_of_earlier_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    moment = random_moment(6, generator)
    solver = SeparateBatches(moment, 2.0, dtype=torch.float64)
    for count in (3, 5, 2):  # more keys than dimensions in total
        keys, residual = random_keys(6, count, generator), random_keys(4, count, generator)
        update = solver.update(keys, residual)
        solver.add(update.keys)
        close(update.matrix(), residual @ keys.t() @ torch.linalg.inv(2 * moment + keys @ keys.t()))


def test_accumulated_keys_count_in_the_updates_of_later_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    moment, c_accu = random_moment(6, generator), 0.0
    solver = AccumulatedKeys(moment, 2.0, dtype=torch.float64)
    for count in (3, 5, 2):
        keys, residual = random_keys(6, count, generator), random_keys(4, count, generator)
        c_accu = c_accu + keys @ keys.t()
        update = solver.update(keys, residual)
        solver.add(update.keys)
        close(update.matrix(), residual @ keys.t() @ torch.linalg.inv(2 * moment + c_accu))


def test_the_solve_is_on_the_gpu_only_if_the_factors_of_all_layers_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu, matrix = torch.device("cuda", 0), torch.device("cpu"), 8 * 100 * 100
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * matrix + 1, 10 * matrix))
    assert solving_device(100, gpu, layers=3) == gpu
    assert solving_device(100, gpu, layers=4) == cpu
    assert solving_device(100, cpu, layers=1) == cpu
