"""The key search returns bitwise the keys and distances of brute force, for any codebook and after any change to it."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.shared.subject_keys import exact_distances, key_projections, key_search
from easyedit_lifelong.methods.shared.subject_keys.distance import max_squared_distance, normalized, pairwise_distances
from tests.support.thoroughness import examples

DEFAULT_LIMITS = (64, 512, 32, 1 << 22, 4096)
LIMITS = [DEFAULT_LIMITS, (2, 512, 32, 1 << 22, 11), (2, 0, 1000, 1 << 22, 4096), (2, 3, 1000, 50, 7)]
"""The search's limits: the defaults, and smaller ones with which few keys take every path that many keys take.

Each tuple: BRUTE_FORCE_BELOW, _MAX_CANDIDATES, _MAX_CANDIDATES_DIVISOR, _PAIRS_AT_ONCE, _BLOCK_ROWS and _CPU_BLOCK.
"""


@contextlib.contextmanager
def limits_set_to(smallest: int, candidates: int, divisor: int, pairs: int, block_rows: int) -> Iterator[None]:
    with (
        mock.patch.multiple(
            key_search,
            BRUTE_FORCE_BELOW=smallest,
            _MAX_CANDIDATES=candidates,
            _MAX_CANDIDATES_DIVISOR=divisor,
            _PAIRS_AT_ONCE=pairs,
        ),
        mock.patch.multiple(key_projections, _PAIRS_AT_ONCE=pairs, _BLOCK_ROWS=block_rows, _CPU_BLOCK=block_rows),
        mock.patch.object(exact_distances, "_PAIRS_AT_ONCE", block_rows),
    ):
        yield


def codebook_of(keys: Tensor, radii: Tensor | float = 1.0, dist_fn: str = "euc") -> Codebook:
    codebook = Codebook(keys.shape[1], 1, eps=1.0, dist_fn=dist_fn)
    radii = torch.as_tensor(radii).float().expand(len(keys)).clone()
    codebook.load_state_dict({"keys": keys, "values": torch.zeros(len(keys), 1), "radii": radii})
    return codebook


def brute_force(codebook: Codebook, queries: Tensor) -> tuple[list[int], list[float], list[int]]:
    """Return each query's nearest key, its distance, and the key that matches (-1: none), from all distances."""
    distances = codebook.distances(queries)
    smallest = distances.min(dim=1).values
    nearest = [(row == minimum).nonzero()[0].item() for row, minimum in zip(distances, smallest, strict=True)]
    reaches = codebook.radii[nearest] + codebook._slack(queries)
    matches = (smallest <= reaches) & smallest.isfinite()
    matched = [key if is_match else -1 for key, is_match in zip(nearest, matches.tolist(), strict=True)]
    return nearest, smallest.tolist(), matched


def assert_equals_brute_force(codebook: Codebook, queries: Tensor) -> None:
    nearest, distances, matched = brute_force(codebook, queries)
    assert codebook.lookup(queries).tolist() == matched
    single_matches = [codebook.nearest(query) for query in queries]
    assert [(match.index, match.distance) for match in single_matches] == list(zip(nearest, distances, strict=True))
    batch_matches = codebook._search.nearest(queries, codebook.keys)
    assert batch_matches.key.tolist() == nearest
    assert batch_matches.distance.tolist() == distances
    for limit in sorted({0.0, *distances}):
        limited = codebook._search.nearest(queries, codebook.keys, within=limit)
        is_within = [not distance > limit for distance in distances]
        assert limited.key.tolist() == [key if near else -1 for key, near in zip(nearest, is_within, strict=True)]
        expected = [distance if near else math.inf for distance, near in zip(distances, is_within, strict=True)]
        assert limited.distance.tolist() == expected


@st.composite
def codebooks_and_queries(draw: st.DrawFn) -> tuple[Codebook, Tensor]:
    """Draw a codebook and queries with ties, near ties, keys as queries, and vectors of very different lengths."""
    width = draw(st.sampled_from([1, 2, 5, 33, 300]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    count = draw(st.integers(1, 90))
    keys = draw(st.sampled_from([1e-25, 1e-6, 1.0, 30.0, 1e6, 1e18, 1e22])) * torch.randn(
        count, width, generator=generator
    )
    if draw(st.booleans()):  # ties without rounding
        keys = (keys / keys.abs().max() * 2).round()
    keys = keys + draw(st.sampled_from([0.0, 1.0, 1e4]))
    rows = st.integers(0, count - 1)
    for target, source, noise in draw(
        st.lists(st.tuples(rows, rows, st.sampled_from([0.0, 1e-7, 1e-6, 1e-4, 1e-2])), max_size=20)
    ):
        keys[target] = keys[source] * (1 + noise * torch.randn(width, generator=generator))
    for row in draw(st.lists(rows, max_size=2)):
        keys[row] = 0
    keys = keys.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))).float()
    keys[keys.isinf()] = 60000.0
    queries = [torch.zeros(width), keys.abs().mean() * torch.randn(width, generator=generator)]
    for source, noise in draw(
        st.lists(st.tuples(rows, st.sampled_from([0.0, 1e-7, 4e-6, 1e-5, 1e-3, 0.3])), min_size=1, max_size=8)
    ):
        queries.append(keys[source] * (1 + noise * torch.randn(width, generator=generator)))
    query_rows = torch.stack(queries)
    codebook = codebook_of(keys, 0.0, draw(st.sampled_from(["euc", "cos"])))
    distances = codebook.distances(query_rows)
    codebook.radii[:] = draw(st.sampled_from([0.0, 1e-6, 1.0])) * distances.mean()
    for row, target in draw(st.lists(st.tuples(rows, st.integers(0, len(query_rows) - 1)), max_size=10)):
        codebook.radii[row] = distances[target, row]  # the query lies on the edge of the radius
    return codebook, query_rows


@examples(200)
@given(codebooks_and_queries(), st.sampled_from(LIMITS))
def test_matches_equal_those_of_brute_force(
    codebook_and_queries: tuple[Codebook, Tensor], limits: tuple[int, ...]
) -> None:
    codebook, queries = codebook_and_queries
    with limits_set_to(*limits):
        assert_equals_brute_force(codebook, queries)


@examples(100)
@given(codebooks_and_queries())
def test_a_distance_does_not_depend_on_the_other_queries(codebook_and_queries: tuple[Codebook, Tensor]) -> None:
    codebook, queries = codebook_and_queries
    with limits_set_to(*LIMITS[1]):
        batch_distances = codebook._search.nearest(queries, codebook.keys).distance
        single_distances = [codebook.nearest(query).distance for query in queries]
    assert batch_distances.tolist() == single_distances


coordinates = st.integers(-8, 8).map(lambda n: n / 4)
edits = st.tuples(coordinates, coordinates, st.integers(0, 2))


@examples(80)
@given(
    steps=st.lists(st.one_of(edits, st.sampled_from(["undo", "move", "copy", "reload", "redo"])), max_size=40),
    dist_fn=st.sampled_from(["euc", "cos"]),
    expand=st.sampled_from(["coverage", "moving_average"]),
    limits=st.sampled_from(LIMITS[1:]),
)
def test_matches_equal_brute_force_after_edits_undo_moves_copies_and_loads(
    steps: list[tuple[float, float, int] | str], dist_fn: str, expand: str, limits: tuple[int, ...]
) -> None:
    codebook = Codebook(2, 1, eps=0.4, dist_fn=dist_fn, eps_expand=expand)
    changes: list[Change] = []
    queries = torch.tensor([[0.0, 0.0], [0.5, 1.0], [-1.0, 0.25], [2.0, -2.0], [-0.5, -1.5]])
    with limits_set_to(*limits):
        for step in steps:
            if isinstance(step, tuple):
                changes.append(codebook.insert(torch.tensor(step[:2]), (step[2],), torch.zeros(1))[2])
            elif step in ("undo", "redo") and changes:
                change = changes.pop()
                undone_rows = [] if change.index is None else [codebook.row(change.index)]
                undone_rows += [codebook.row(index) for index in range(change.length, len(codebook))]
                codebook.undo(change)
                if step == "redo":
                    changes.append(codebook.redo(undone_rows))
            elif step == "move":
                codebook.to(torch.float16)
            elif step == "copy":
                codebook = copy.deepcopy(codebook)
            elif step == "reload":
                codebook.load_state_dict({name: tensor.flip(0) for name, tensor in codebook.state_dict().items()})
                changes.clear()
            if len(codebook):
                assert_equals_brute_force(codebook, queries)


def random_vectors(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
def test_exact_distances_are_computed_for_few_keys_only(dist_fn: str) -> None:
    codebook = codebook_of(random_vectors(3000, 64), 0.01, dist_fn)
    queries = torch.cat([random_vectors(8, 64, seed=1), codebook.keys[1000:1002]])
    comparisons: list[int] = []

    def counting_distances(queries: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
        comparisons.append(queries[..., 0].numel() * keys.shape[-2])
        return pairwise_distances(queries, keys, dist_fn)

    with mock.patch.object(exact_distances, "pairwise_distances", counting_distances):
        assert codebook.lookup(queries).tolist() == [-1] * 8 + [1000, 1001]
        assert sum(comparisons) < 100
        comparisons.clear()
        codebook.nearest(queries[0])
        assert sum(comparisons) < 1500


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a GPU, since they give the CPU a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten.nonzero, torch.ops.aten._local_scalar_dense)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("near", [0, 2])
def test_a_lookup_waits_for_a_gpu_once(near: int) -> None:
    """Only the number of candidates, which ``nonzero`` returns, is read from the device."""
    codebook = codebook_of(random_vectors(3000, 64), 0.01)
    queries = torch.cat([random_vectors(8, 64, seed=1), codebook.keys[1000 : 1000 + near]])
    codebook.lookup(queries)  # projects the keys
    with Waits() as waits:
        codebook.lookup(queries)
    assert waits.count == 1


def test_matches_equal_brute_force_with_products_rounded_to_bfloat16() -> None:
    codebook = codebook_of(30 + random_vectors(2000, 48), 0.5)
    queries = torch.cat([30 + random_vectors(4, 48, seed=1), codebook.keys[:4] + 0.01 * random_vectors(4, 48, seed=2)])
    matmul = Tensor.__matmul__

    def rounded_matmul(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype == torch.float32:
            return matmul(a.bfloat16().float(), b.bfloat16().float()).bfloat16().float()
        return matmul(a, b)

    with limits_set_to(2, 0, 10_000, 1 << 22, 4096), mock.patch.object(Tensor, "__matmul__", rounded_matmul):
        assert_equals_brute_force(codebook, queries)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])  # in float16, 1e-9 is 0 and 1e6 is infinity
def test_matches_equal_brute_force_under_autocast(scale: float) -> None:
    codebook = codebook_of(scale * (1 + random_vectors(300, 16)), 0.5 * scale)
    with limits_set_to(2, 0, 10_000, 1 << 22, 4096), torch.autocast("cpu", dtype=torch.float16):
        assert_equals_brute_force(codebook, scale * (1 + random_vectors(6, 16, seed=1)))


def test_a_codebook_can_be_edited_after_a_search_in_inference_mode() -> None:
    codebook = codebook_of(10 * random_vectors(100, 4))
    with torch.inference_mode():
        assert codebook.lookup(codebook.keys[:2]).tolist() == [0, 1]
    codebook.insert(torch.full((4,), 99.0), (1,), torch.zeros(1))
    codebook.insert(codebook.keys[0] + 0.1, (2,), torch.zeros(1))
    with torch.inference_mode():
        assert codebook.lookup(torch.full((1, 4), 99.0)).tolist() == [100]


def test_of_equal_keys_the_first_matches() -> None:
    codebook = codebook_of(torch.ones(200, 8), 0.1)
    assert codebook.lookup(torch.ones(3, 8)).tolist() == [0, 0, 0]
    assert codebook.nearest(torch.zeros(8)).index == 0


@pytest.mark.parametrize("count", [10, 100])
@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("bad_value", [float("nan"), float("inf")])
def test_a_query_with_nan_or_infinity_matches_no_key(bad_value: float, dist_fn: str, count: int) -> None:
    codebook = codebook_of(random_vectors(count, 4), 1e9, dist_fn)
    queries = torch.tensor([[bad_value, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    matched = codebook.lookup(queries).tolist()
    assert matched[0] == -1
    assert matched[1] >= 0


def test_the_cosine_distance_of_a_zero_vector_is_one() -> None:
    codebook = codebook_of(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), dist_fn="cos")
    distances = codebook.distances(torch.tensor([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0]]))
    assert distances.tolist() == [[1.0, 1.0], [1.0, 0.0], [1.0, 2.0]]


@examples(100)
@given(st.integers(0, 10_000), st.sampled_from(["euc", "cos"]), st.sampled_from([1e-22, 1e-3, 1.0, 1e10]))
def test_no_squared_distance_exceeds_its_computed_upper_bound(seed: int, dist_fn: str, scale: float) -> None:
    a = normalized(scale * random_vectors(6, 200, seed), dist_fn)
    b = torch.cat(
        [
            a * (1 + 1e-6 * random_vectors(6, 200, seed + 1)),
            normalized(scale * random_vectors(6, 200, seed + 2), dist_fn),
        ]
    )
    upper_bounds = max_squared_distance(pairwise_distances(a, b, dist_fn), 200, dist_fn)
    exact = (a.double().unsqueeze(1) - b.double()).square().sum(dim=-1)
    assert (exact <= upper_bounds).all()


def test_cosine_distances_equal_those_of_torch_in_float64() -> None:
    codebook = codebook_of(random_vectors(50, 30), dist_fn="cos")
    queries = random_vectors(5, 30, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries.double().unsqueeze(1), codebook.keys.double(), dim=-1)
    torch.testing.assert_close(codebook.distances(queries).double(), 1 - cosine, atol=1e-6, rtol=0)


def test_the_memory_of_a_codebook_is_at_most_1_6_times_its_arrays() -> None:
    codebook = Codebook(1000, 20, eps=0.001)
    for key in random_vectors(128, 1000):
        codebook.insert(key, (1,), torch.zeros(20))
    codebook.lookup(codebook.keys[:1])
    per_key = 4 * (1000 + 20 + 1)
    assert 128 * per_key < codebook.nbytes < 128 * per_key * 1.6
