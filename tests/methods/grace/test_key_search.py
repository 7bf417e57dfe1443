"""The search decides as brute force does, bit by bit, whatever it is given and however it came to it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from easyedit_lifelong.methods.grace.codebook import key_search
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.codebook.distance import max_squared_distance, normalized, pairwise_distances
from tests.support.thoroughness import examples

NORMAL = (64, 512, 32, 1 << 22, 4096)
SIZES = [NORMAL, (2, 512, 32, 1 << 22, 4096), (2, 0, 1000, 1 << 22, 4096), (2, 3, 1000, 50, 7)]
"""The constants of the module as they are, and such that few keys take every path that many keys do. In each tuple:
SMALLEST, _MAX_CANDIDATES, _MAX_CANDIDATES_DIVISOR, _PAIRS_AT_ONCE, _BLOCK_ROWS."""


@contextlib.contextmanager
def sizes(smallest: int, few: int, few_of: int, pairs: int, block: int) -> Iterator[None]:
    with mock.patch.multiple(
        key_search,
        SMALLEST=smallest,
        _MAX_CANDIDATES=few,
        _MAX_CANDIDATES_DIVISOR=few_of,
        _PAIRS_AT_ONCE=pairs,
        _BLOCK_ROWS=block,
    ):
        yield


def made_of(keys: Tensor, radii: Tensor | float = 1.0, dist_fn: str = "euc") -> Codebook:
    codebook = Codebook(keys.shape[1], 1, eps=1.0, dist_fn=dist_fn)
    radii = torch.as_tensor(radii).float().expand(len(keys)).clone()
    codebook.load_state_dict({"keys": keys, "values": torch.zeros(len(keys), 1), "radii": radii})
    return codebook


def by_brute_force(codebook: Codebook, queries: Tensor) -> tuple[list[int], list[float], list[int]]:
    """Nearest keys, their distances, and which of them answer, of the whole table of distances."""
    distances = codebook.distances(queries)
    smallest = distances.min(dim=1).values
    nearest = [(row == least).nonzero()[0].item() for row, least in zip(distances, smallest, strict=True)]
    reach = codebook.radii[nearest] + codebook._slack(queries)
    answers = (smallest <= reach) & smallest.isfinite()
    fired = [key if answer else -1 for key, answer in zip(nearest, answers.tolist(), strict=True)]
    return nearest, smallest.tolist(), fired


def assert_like_brute_force(codebook: Codebook, queries: Tensor) -> None:
    nearest, distances, fired = by_brute_force(codebook, queries)
    assert codebook.lookup(queries).tolist() == fired
    found = [codebook.nearest(query) for query in queries]
    assert [(match.index, match.distance) for match in found] == list(zip(nearest, distances, strict=True))
    together = codebook._search.nearest(queries, codebook.keys)
    assert together.key.tolist() == nearest
    assert together.distance.tolist() == distances


@st.composite
def situations(draw: st.DrawFn) -> tuple[Codebook, Tensor]:
    """A codebook and queries, full of what is hard: ties, near ties, keys as queries, and sizes of every order."""
    width = draw(st.sampled_from([1, 2, 5, 33, 300]))
    seeded = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    count = draw(st.integers(1, 90))
    keys = draw(st.sampled_from([1e-25, 1e-6, 1.0, 30.0, 1e6, 1e18, 1e22])) * torch.randn(
        count, width, generator=seeded
    )
    if draw(st.booleans()):  # ties without rounding
        keys = (keys / keys.abs().max() * 2).round()
    keys = keys + draw(st.sampled_from([0.0, 1.0, 1e4]))
    rows = st.integers(0, count - 1)
    for to, origin, nudge in draw(
        st.lists(st.tuples(rows, rows, st.sampled_from([0.0, 1e-7, 1e-6, 1e-4, 1e-2])), max_size=20)
    ):
        keys[to] = keys[origin] * (1 + nudge * torch.randn(width, generator=seeded))
    for zeroed in draw(st.lists(rows, max_size=2)):
        keys[zeroed] = 0
    keys = keys.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))).float()
    keys[keys.isinf()] = 60000.0
    queries = [torch.zeros(width), keys.abs().mean() * torch.randn(width, generator=seeded)]
    for origin, nudge in draw(
        st.lists(st.tuples(rows, st.sampled_from([0.0, 1e-7, 4e-6, 1e-5, 1e-3, 0.3])), min_size=1, max_size=8)
    ):
        queries.append(keys[origin] * (1 + nudge * torch.randn(width, generator=seeded)))
    asked = torch.stack(queries)
    codebook = made_of(keys, 0.0, draw(st.sampled_from(["euc", "cos"])))
    distances = codebook.distances(asked)
    codebook.radii[:] = draw(st.sampled_from([0.0, 1e-6, 1.0])) * distances.mean()
    for grown, to in draw(st.lists(st.tuples(rows, st.integers(0, len(asked) - 1)), max_size=10)):
        codebook.radii[grown] = distances[to, grown]  # out to a query
    return codebook, asked


@examples(200)
@given(situations(), st.sampled_from(SIZES))
def test_it_decides_as_brute_force_does(situation: tuple[Codebook, Tensor], limits: tuple[int, ...]) -> None:
    codebook, queries = situation
    with sizes(*limits):
        assert_like_brute_force(codebook, queries)


@examples(100)
@given(situations())
def test_an_answer_does_not_depend_on_the_other_queries(situation: tuple[Codebook, Tensor]) -> None:
    codebook, queries = situation
    with sizes(*SIZES[1]):
        together = codebook._search.nearest(queries, codebook.keys).distance
        alone = [codebook.nearest(query).distance for query in queries]
    assert together.tolist() == alone


rows = st.integers(-8, 8).map(lambda n: n / 4)
edits = st.tuples(rows, rows, st.integers(0, 2))


@examples(80)
@given(
    steps=st.lists(st.one_of(edits, st.sampled_from(["undo", "move", "copy", "reload", "redo"])), max_size=40),
    dist_fn=st.sampled_from(["euc", "cos"]),
    expand=st.sampled_from(["coverage", "moving_average"]),
    limits=st.sampled_from(SIZES[1:]),
)
def test_it_follows_whatever_happens_to_the_codebook(
    steps: list[tuple[float, float, int] | str], dist_fn: str, expand: str, limits: tuple[int, ...]
) -> None:
    codebook = Codebook(2, 1, eps=0.4, dist_fn=dist_fn, eps_expand=expand)
    changes: list[Change] = []
    queries = torch.tensor([[0.0, 0.0], [0.5, 1.0], [-1.0, 0.25], [2.0, -2.0], [-0.5, -1.5]])
    with sizes(*limits):
        for step in steps:
            if isinstance(step, tuple):
                changes.append(codebook.enter(torch.tensor(step[:2]), (step[2],), torch.zeros(1))[2])
            elif step in ("undo", "redo") and changes:
                change = changes.pop()
                done = [] if change.index is None else [codebook.row(change.index)]
                done += [codebook.row(index) for index in range(change.length, len(codebook))]
                codebook.undo(change)
                if step == "redo":
                    changes.append(codebook.redo(done))
            elif step == "move":
                codebook.to(torch.float16)
            elif step == "copy":
                codebook = copy.deepcopy(codebook)
            elif step == "reload":
                codebook.load_state_dict({name: tensor.flip(0) for name, tensor in codebook.state_dict().items()})
                changes.clear()
            if len(codebook):
                assert_like_brute_force(codebook, queries)


def normal(count: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
def test_many_keys_are_ruled_out(dist_fn: str) -> None:
    """A search that compares with every key would be right, too; this one compares with few."""
    codebook = made_of(normal(3000, 64), 0.01, dist_fn)
    queries = torch.cat([normal(8, 64, seed=1), codebook.keys[1000:1002]])
    compared: list[int] = []

    def counting(asked: Tensor, keys: Tensor, dist_fn: str) -> Tensor:
        compared.append(asked[..., 0].numel() * keys.shape[-2])
        return pairwise_distances(asked, keys, dist_fn)

    with mock.patch.object(key_search, "pairwise_distances", counting):
        assert codebook.lookup(queries).tolist() == [-1] * 8 + [1000, 1001]
        assert sum(compared) < 100
        compared.clear()
        codebook.nearest(queries[0])
        assert sum(compared) < 1500


def test_products_in_bfloat16_are_allowed_for() -> None:
    codebook = made_of(30 + normal(2000, 48), 0.5)
    queries = torch.cat([30 + normal(4, 48, seed=1), codebook.keys[:4] + 0.01 * normal(4, 48, seed=2)])
    product = Tensor.__matmul__

    def rounded(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype == torch.float32:
            return product(a.bfloat16().float(), b.bfloat16().float()).bfloat16().float()
        return product(a, b)

    with sizes(2, 0, 10_000, 1 << 22, 4096), mock.patch.object(Tensor, "__matmul__", rounded):
        assert_like_brute_force(codebook, queries)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])  # float16 takes the first for zeros, the last for infinity
def test_autocast_changes_nothing(scale: float) -> None:
    codebook = made_of(scale * (1 + normal(300, 16)), 0.5 * scale)
    with sizes(2, 0, 10_000, 1 << 22, 4096), torch.autocast("cpu", dtype=torch.float16):
        assert_like_brute_force(codebook, scale * (1 + normal(6, 16, seed=1)))


def test_a_search_in_inference_mode_leaves_a_codebook_that_can_be_edited() -> None:
    codebook = made_of(10 * normal(100, 4))
    with torch.inference_mode():
        assert codebook.lookup(codebook.keys[:2]).tolist() == [0, 1]
    codebook.enter(torch.full((4,), 99.0), (1,), torch.zeros(1))
    codebook.enter(codebook.keys[0] + 0.1, (2,), torch.zeros(1))
    with torch.inference_mode():
        assert codebook.lookup(torch.full((1, 4), 99.0)).tolist() == [100]


def test_equal_keys_are_told_apart_by_their_order() -> None:
    codebook = made_of(torch.ones(200, 8), 0.1)
    assert codebook.lookup(torch.ones(3, 8)).tolist() == [0, 0, 0]
    assert codebook.nearest(torch.zeros(8)).index == 0


@pytest.mark.parametrize("count", [10, 100])
@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_query_that_is_no_number_is_deferred(bad: float, dist_fn: str, count: int) -> None:
    codebook = made_of(normal(count, 4), 1e9, dist_fn)
    query = torch.tensor([[bad, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    fired = codebook.lookup(query).tolist()
    assert fired[0] == -1
    assert fired[1] >= 0


def test_a_vector_without_direction_is_at_cosine_distance_one() -> None:
    codebook = made_of(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), dist_fn="cos")
    distances = codebook.distances(torch.tensor([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0]]))
    assert distances.tolist() == [[1.0, 1.0], [1.0, 0.0], [1.0, 2.0]]


@examples(100)
@given(st.integers(0, 10_000), st.sampled_from(["euc", "cos"]), st.sampled_from([1e-22, 1e-3, 1.0, 1e10]))
def test_no_distance_is_more_than_its_limit(seed: int, dist_fn: str, scale: float) -> None:
    a = normalized(scale * normal(6, 200, seed), dist_fn)
    b = torch.cat([a * (1 + 1e-6 * normal(6, 200, seed + 1)), normalized(scale * normal(6, 200, seed + 2), dist_fn)])
    limits = max_squared_distance(pairwise_distances(a, b, dist_fn), 200, dist_fn)
    exact = (a.double().unsqueeze(1) - b.double()).square().sum(dim=-1)
    assert (exact <= limits).all()


def test_cosine_distances_are_those_of_the_formula() -> None:
    codebook = made_of(normal(50, 30), dist_fn="cos")
    queries = normal(5, 30, seed=1)
    cosine = torch.nn.functional.cosine_similarity(queries.double().unsqueeze(1), codebook.keys.double(), dim=-1)
    torch.testing.assert_close(codebook.distances(queries).double(), 1 - cosine, atol=1e-6, rtol=0)


def test_memory_is_that_of_keys_values_radii_and_the_search() -> None:
    codebook = Codebook(1000, 20, eps=0.001)
    for key in normal(128, 1000):
        codebook.enter(key, (1,), torch.zeros(20))
    codebook.lookup(codebook.keys[:1])
    per_key = 4 * (1000 + 20 + 1)
    assert 128 * per_key < codebook.nbytes < 128 * per_key * 1.6
