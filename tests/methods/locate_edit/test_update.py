"""The factored solve against the direct one, and against hostile second moments and keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.locate_edit.update import AccumulatedKeys, SeparateBatches, solving_device
from tests.support.thoroughness import examples

close = torch.testing.assert_close


def _moment(size: int, generator: torch.Generator) -> torch.Tensor:
    keys = torch.randn(3 * size, size, generator=generator, dtype=torch.float64)
    return keys.t() @ keys / len(keys)


def _keys(size: int, count: int, generator: torch.Generator, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(size, count, generator=generator, dtype=torch.float64) * scale


@examples(60)
@given(
    size=st.integers(1, 12),
    batches=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    weight=st.sampled_from([1e-3, 1.0, 15000.0]),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
    ridge=st.sampled_from([0.0, 0.01]),
    seed=st.integers(0, 1000),
)
def test_solves_as_the_direct_solve_does(
    size: int, batches: list[int], weight: float, scale: float, ridge: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    moment = _moment(size, generator)
    c_accu = moment * weight
    c_accu += ridge * c_accu.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    accumulated = AccumulatedKeys(moment, weight, ridge=ridge, dtype=torch.float64)
    base = c_accu
    for count in batches:
        keys = _keys(size, count, generator, scale)
        c_accu = c_accu + keys @ keys.t()
        direct = torch.linalg.solve(c_accu, keys)
        # Either is off by the condition number of the matrix that it factors, times the precision.
        condition = max(float(torch.linalg.cond(c_accu)), float((keys * torch.linalg.solve(base, keys)).sum()))
        off = 1e-12 + 1e-15 * condition
        assert float((accumulated.solve(keys) - direct).norm()) <= off * float(direct.norm())
        accumulated.add(keys)
        close(accumulated.matrix(), c_accu, rtol=1e-12, atol=1e-12 * float(c_accu.abs().max()))


def test_little_weight_on_the_old_keys_costs_no_digits() -> None:
    # λ E[kkᵀ] = 0.001 I: by the Woodbury identity as it is written, ten digits would cancel.
    generator = torch.Generator().manual_seed(0)
    keys = _keys(12, 4, generator, 30.0)
    solution = AccumulatedKeys(torch.eye(12), 1e-3, dtype=torch.float64).solve(keys)
    # (λI + KKᵀ)⁻¹ K through the singular values of K.
    u, s, vt = torch.linalg.svd(keys, full_matrices=False)
    close(solution, u @ torch.diag(s / (1e-3 + s.square())) @ vt, rtol=1e-11, atol=1e-15)


def test_solving_accumulates_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    accumulated = AccumulatedKeys(_moment(6, generator), 1.0, dtype=torch.float64)
    accumulated.add(_keys(6, 2, generator))
    keys, before = _keys(6, 3, generator), accumulated.matrix()
    first = accumulated.solve(keys)
    assert torch.equal(accumulated.solve(keys), first)
    assert torch.equal(accumulated.matrix(), before)


def test_keys_that_were_just_solved_for_are_accumulated_as_any_others() -> None:
    generator = torch.Generator().manual_seed(0)
    moment, batches = _moment(6, generator), [_keys(6, 2, generator) for _ in range(4)]
    plain, solved = (AccumulatedKeys(moment, 1.0, dtype=torch.float64) for _ in range(2))
    for keys in batches:  # the third fills up, and is folded in
        plain.add(keys)
        solved.solve(keys + 1)
        solved.solve(keys)
        solved.add(keys)
        assert torch.equal(solved.matrix(), plain.matrix())
        close(solved.solve(batches[0]), plain.solve(batches[0]), rtol=1e-12, atol=1e-15)
    solved.truncate(3)
    plain.truncate(3)
    solved.add(batches[0])  # solved for before the others were forgotten
    plain.add(batches[0])
    close(solved.solve(batches[1]), plain.solve(batches[1]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kept", range(15))
def test_forgetting_keys_is_as_if_they_had_never_come(kept: int) -> None:
    # 14 keys in 6 dimensions: folded after the second batch and again after the fifth.
    generator = torch.Generator().manual_seed(1)
    moment = _moment(6, generator)
    batches = [_keys(6, n, generator) for n in (3, 4, 2, 1, 4)]
    accumulated = AccumulatedKeys(moment, 0.5, dtype=torch.float64)
    for keys in batches:
        accumulated.add(keys)
    accumulated.truncate(kept)
    everything = torch.cat(batches, dim=1)[:, :kept]
    assert torch.equal(accumulated.keys, everything)
    c_accu = 0.5 * moment + everything @ everything.t()
    close(accumulated.matrix(), c_accu)
    for _ in range(3):  # and goes on from there
        new = _keys(6, 3, generator)
        c_accu = c_accu + new @ new.t()
        close(accumulated.solve(new), torch.linalg.solve(c_accu, new))
        accumulated.add(new)


def test_forgetting_twice_after_a_fold() -> None:
    generator = torch.Generator().manual_seed(2)
    moment = _moment(4, generator)
    keys = _keys(4, 9, generator)
    accumulated = AccumulatedKeys(moment, 1.0, dtype=torch.float64)
    accumulated.add(keys)
    accumulated.truncate(5)
    accumulated.truncate(3)
    assert accumulated.keys.shape == (4, 3)
    c_accu = moment + keys[:, :3] @ keys[:, :3].t() + keys[:, 3:5] @ keys[:, 3:5].t()
    close(accumulated.solve(keys[:, 3:5]), torch.linalg.solve(c_accu, keys[:, 3:5]))


def test_forgetting_nothing_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    accumulated = AccumulatedKeys(_moment(5, generator), 1.0, dtype=torch.float64)
    accumulated.add(_keys(5, 3, generator))
    new = _keys(5, 2, generator)
    before = accumulated.solve(new)
    accumulated.truncate(3)
    assert torch.equal(accumulated.solve(new), before)


def test_the_same_key_twice_is_two_keys() -> None:
    generator = torch.Generator().manual_seed(4)
    moment, key = _moment(5, generator), _keys(5, 1, generator)
    twice = torch.cat([key, key], dim=1)
    solution = AccumulatedKeys(moment, 1.0, dtype=torch.float64).solve(twice)
    close(solution, torch.linalg.solve(moment + 2 * key @ key.t(), twice))


def test_keys_are_accumulated_as_they_are_kept() -> None:
    # In float32, as the layers keep them: what is stored and loaded again is what was solved with.
    generator = torch.Generator().manual_seed(5)
    moment, keys = _moment(5, generator), _keys(5, 3, generator)
    accumulated = AccumulatedKeys(moment, 1.0)
    accumulated.add(keys)
    kept = keys.float().double()
    close(accumulated.matrix(), moment + kept @ kept.t(), rtol=1e-14, atol=1e-14)


def test_singular_moments_are_refused_by_name() -> None:
    moment = torch.zeros(4, 4)
    moment[0, 0] = 1.0
    with pytest.raises(EditError, match=r"second moments .*mom2_n_tokens"):
        AccumulatedKeys(moment, 1.0).solve(torch.ones(4, 1))
    # With the ridge of statistics of few tokens they will do.
    solution = AccumulatedKeys(moment, 1.0, ridge=0.01).solve(torch.ones(4, 1))
    close(
        solution, torch.linalg.solve(moment.double() + 0.0025 * torch.eye(4).double() + 1.0, torch.ones(4, 1).double())
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_hostile_numbers_are_refused_and_leave_nothing_behind(bad: float) -> None:
    generator = torch.Generator().manual_seed(6)
    accumulated = AccumulatedKeys(_moment(4, generator), 1.0, dtype=torch.float64)
    accumulated.add(_keys(4, 2, generator))
    good, poisoned = _keys(4, 2, generator), _keys(4, 2, generator)
    poisoned[1, 1] = bad
    before, matrix = accumulated.solve(good), accumulated.matrix()
    for act in (accumulated.solve, accumulated.add):
        with pytest.raises(EditError, match="can't be computed"):
            act(poisoned)
    assert torch.equal(accumulated.solve(good), before)
    assert torch.equal(accumulated.matrix(), matrix)
    moment = _moment(4, generator)
    moment[2, 2] = bad
    with pytest.raises(EditError, match="second moments"):
        AccumulatedKeys(moment, 1.0).solve(good)


def test_separate_batches_forget_the_keys_of_earlier_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    moment = _moment(6, generator)
    solver = SeparateBatches(moment, 2.0, dtype=torch.float64)
    for count in (3, 5, 2):  # more keys than dimensions, all in all
        keys, residual = _keys(6, count, generator), _keys(4, count, generator)
        update = solver.update(keys, residual)
        solver.add(update.keys)
        close(update.matrix(), residual @ keys.t() @ torch.linalg.inv(2 * moment + keys @ keys.t()))


def test_accumulated_keys_weigh_on_later_updates() -> None:
    generator = torch.Generator().manual_seed(0)
    moment, c_accu = _moment(6, generator), 0.0
    solver = AccumulatedKeys(moment, 2.0, dtype=torch.float64)
    for count in (3, 5, 2):
        keys, residual = _keys(6, count, generator), _keys(4, count, generator)
        c_accu = c_accu + keys @ keys.t()
        update = solver.update(keys, residual)
        solver.add(update.keys)
        close(update.matrix(), residual @ keys.t() @ torch.linalg.inv(2 * moment + c_accu))


def test_the_factors_of_all_layers_have_to_fit_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu, matrix = torch.device("cuda", 0), torch.device("cpu"), 8 * 100 * 100
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (5 * matrix + 1, 10 * matrix))
    assert solving_device(100, gpu, layers=3) == gpu
    assert solving_device(100, gpu, layers=4) == cpu
    assert solving_device(100, cpu, layers=1) == cpu
