"""Keys of several vectors, radii per edit and gates: the codebook against a float64 reference of GRACE's rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change, Decision
from easyedit_lifelong.methods.grace.codebook.removal import remove_edits
from easyedit_lifelong.methods.shared.subject_keys.key_search import BRUTE_FORCE_BELOW
from tests.support.thoroughness import examples

WIDTH, VALUE, GATE = 3, 2, 2
GATE_EPS = 0.3
CLOSE = 1e-4
"""At a smaller distance from a threshold, float32 and float64 may decide differently."""


@dataclass(frozen=True)
class Options:
    """The options with which a codebook is created."""

    dist_fn: str
    vectors_per_key: int
    gated: bool
    per_edit_eps: bool

    @property
    def eps(self) -> float:
        return 1.0 if self.dist_fn == "euc" else 0.1

    def new_codebook(self, width: int = WIDTH) -> Codebook:
        return Codebook(
            width,
            VALUE,
            eps=self.eps,
            dist_fn=self.dist_fn,
            vectors_per_key=self.vectors_per_key,
            gate_size=GATE if self.gated else 0,
            gate_eps=GATE_EPS if self.gated else None,
            per_edit_eps=self.per_edit_eps,
        )


any_options = st.builds(Options, st.sampled_from(["euc", "cos"]), st.integers(1, 3), st.booleans(), st.booleans())


@dataclass
class Edit:
    """One edit: the vectors of its key, its label, its gate and its radius."""

    vectors: Tensor
    label: int
    gate: Tensor
    radius: float
    number: int

    def arguments(self, options: Options) -> tuple[Tensor, tuple[int, ...], Tensor]:
        value_parts = [torch.tensor([float(self.number), 1.0])]
        value_parts += [self.gate] if options.gated else []
        value_parts += [torch.tensor([self.radius])] if options.per_edit_eps else []
        return self.vectors[: options.vectors_per_key].flatten(), (self.label,), torch.cat(value_parts)


def vector(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(-6, 6), min_size=size, max_size=size).filter(any)


def edit_of(drawn: tuple[list[list[int]], int, list[int], int], number: int) -> Edit:
    vectors, label, gate, radius = drawn
    return Edit(torch.tensor(vectors) / 4, label, torch.tensor(gate) / 4, radius / 20, number)


streams = st.lists(
    st.tuples(st.lists(vector(WIDTH), min_size=3, max_size=3), st.integers(0, 1), vector(GATE), st.integers(1, 12)),
    min_size=1,
    max_size=12,
).map(lambda stream: [edit_of(drawn, number) for number, drawn in enumerate(stream)])


@dataclass
class Reference:
    """The codebook's rules in float64, without key search and without undo."""

    options: Options
    rows: list[dict[str, Any]] = field(default_factory=list)
    margin: float = math.inf
    """The smallest distance from a threshold in any comparison so far."""

    def distance(self, first: Tensor, second: Tensor) -> float:
        first, second = first.double(), second.double()
        if self.options.dist_fn == "euc":
            return float((first - second).norm())
        return float(1 - F.cosine_similarity(first, second, dim=0))

    def key_distance(self, vectors: Tensor, row: dict[str, Any]) -> float:
        return min(self.distance(a, b) for a in vectors for b in row["vectors"])

    def at_most(self, first: float, second: float) -> bool:
        self.margin = min(self.margin, abs(first - second))
        return first <= second

    def nearest(self, vectors: Tensor, among: list[int]) -> tuple[int, float]:
        distances = sorted((self.key_distance(vectors, self.rows[n]), n) for n in among)
        if not distances:
            return -1, math.inf
        distance, index = distances[0]
        # The first of equally near keys is the nearest; between different keys, rounding may break the tie.
        for next_distance, n in distances[1:2]:
            if next_distance - distance < CLOSE and not torch.equal(
                self.rows[index]["vectors"], self.rows[n]["vectors"]
            ):
                self.margin = 0.0
        return index, distance

    def nearest_gate(self, edit: Edit, among: list[int], gate_distances: list[float]) -> int:
        best, *others = sorted(among, key=lambda n: (gate_distances[n], n))
        for n in others[:1]:
            difference = gate_distances[n] - gate_distances[best]
            if difference < CLOSE and not torch.equal(self.rows[best]["gate"], self.rows[n]["gate"]):
                self.margin = 0.0
        return best

    def insert(self, edit: Edit) -> Decision:
        vectors, among = edit.vectors[: self.options.vectors_per_key], list(range(len(self.rows)))
        gate_distances = [0.0] * len(among)
        if self.options.gated:
            gate_distances = [
                float(1 - F.cosine_similarity(edit.gate.double(), row["gate"].double(), dim=0)) for row in self.rows
            ]
            among = [n for n in among if self.at_most(gate_distances[n], GATE_EPS)]
            equal_keys = [n for n in among if self.at_most(self.key_distance(vectors, self.rows[n]), 1e-4)]
            if equal_keys:  # of the keys that equal the query, only the one with the nearest gate
                among = [self.nearest_gate(edit, equal_keys, gate_distances)]
        index, distance = self.nearest(vectors, among)
        eps = edit.radius if self.options.per_edit_eps else self.options.eps
        new_row = {"vectors": vectors, "label": edit.label, "gate": edit.gate, "number": edit.number, "radius": eps}
        if index < 0 or not self.at_most(distance, eps + self.rows[index]["radius"]):
            self.rows.append(new_row)
            return Decision.ADD
        row = self.rows[index]
        changed = {"number": edit.number, "gate": edit.gate, "label": edit.label}
        if row["label"] == edit.label:
            own = self.key_distance(vectors[:1], row)
            if not self.at_most(own, eps + row["radius"]):
                self.rows.append(new_row)
                return Decision.ADD
            inside = self.at_most(own, row["radius"])
            row |= changed if inside else {**changed, "radius": own}
            return Decision.COVERED if inside else Decision.EXPAND
        if self.at_most(distance, 1e-4):
            if not self.at_most(gate_distances[index], 1e-3):
                self.rows.append(new_row)
                return Decision.ADD
            row |= changed
            return Decision.SUPERSEDE
        row["radius"] = distance / 2 - 1e-5
        self.rows.append({**new_row, "radius": distance / 2})
        return Decision.SPLIT

    def lookup(self, query: Tensor) -> int:
        index, distance = self.nearest(query.unsqueeze(0), list(range(len(self.rows))))
        return index if index >= 0 and self.at_most(distance, self.rows[index]["radius"]) else -1


def insert(codebook: Codebook, options: Options, edit: Edit) -> tuple[Decision, Change]:
    decision, _, change = codebook.insert(*edit.arguments(options))
    return decision, change


@examples(200)
@given(streams, any_options, st.lists(vector(WIDTH), min_size=4, max_size=4))
def test_decisions_and_lookups_equal_those_of_the_reference(
    stream: list[Edit], options: Options, drawn_queries: list[list[int]]
) -> None:
    codebook, reference = options.new_codebook(), Reference(options)
    for edit in stream:
        expected = reference.insert(edit)
        decided, _ = codebook.decide(*edit.arguments(options))
        decision, _ = insert(codebook, options, edit)
        # At a threshold both decisions are right, and later decisions depend on this one.
        assume(reference.margin > CLOSE)
        assert decision is decided is expected
    assert len(codebook) == len(reference.rows)
    assert codebook.radii.tolist() == pytest.approx([row["radius"] for row in reference.rows], abs=1e-4)
    assert codebook.values[:, 0].tolist() == [row["number"] for row in reference.rows]
    assert [label for (label,) in codebook.labels] == [row["label"] for row in reference.rows]
    if options.gated:
        assert torch.equal(codebook.gates, torch.stack([row["gate"] for row in reference.rows]).float())
    queries = torch.tensor(drawn_queries) / 4
    expected_matches = [reference.lookup(query) for query in queries]
    expected_within = [
        any(reference.at_most(reference.key_distance(query.unsqueeze(0), row), row["radius"]) for row in reference.rows)
        for query in queries
    ]
    assume(reference.margin > CLOSE)
    assert codebook.lookup(queries).tolist() == expected_matches
    assert codebook.within_any_radius(queries).tolist() == expected_within
    assert ((codebook.relative_distances(queries) <= 1).any(dim=1)).tolist() == expected_within


@examples(100)
@given(streams, any_options, st.data())
def test_removal_leaves_the_codebook_that_the_other_edits_build(
    stream: list[Edit], options: Options, data: st.DataObject
) -> None:
    codebook = options.new_codebook()
    changes = [insert(codebook, options, edit)[1] for edit in stream]
    removed = data.draw(st.sets(st.sampled_from(range(len(stream))), max_size=5))
    remove_edits(codebook, changes, removed, range(len(stream)))
    rebuilt = options.new_codebook()
    expected = [insert(rebuilt, options, edit)[1] for n, edit in enumerate(stream) if n not in removed]
    assert codebook.labels == rebuilt.labels
    for name in ("keys", "values", "gates", "radii"):
        assert torch.equal(getattr(codebook, name), getattr(rebuilt, name))
    assert [change.length for change in changes] == [change.length for change in expected]
    for change in reversed(changes):
        codebook.undo(change)
    assert len(codebook) == 0


@pytest.mark.parametrize("vectors_per_key", [1, 2, 3])
@pytest.mark.parametrize("dist_fn", ["euc", "cos"])
def test_the_key_search_agrees_with_the_table_of_all_distances(dist_fn: str, vectors_per_key: int) -> None:
    """With this many vectors, lookups do not compare the query with every key."""
    generator = torch.Generator().manual_seed(vectors_per_key)
    options = Options(dist_fn, vectors_per_key, gated=False, per_edit_eps=True)
    codebook, width = options.new_codebook(48), 48
    for number in range(BRUTE_FORCE_BELOW + 40):
        key = torch.randn(vectors_per_key * width, generator=generator)
        largest_radius = 4.0 if dist_fn == "euc" else 0.3
        value = torch.tensor([number, 1.0, largest_radius * float(torch.rand((), generator=generator))])
        codebook._append(key, (number,), value, float(value[-1]))
        if number == BRUTE_FORCE_BELOW:
            codebook.lookup(torch.randn(2, width, generator=generator))  # later keys must be found, too
    near_keys = codebook.key_vectors[torch.randint(len(codebook) * vectors_per_key, (200,), generator=generator)]
    scale = torch.rand(200, 1, generator=generator) * (0.8 if dist_fn == "euc" else 1.0)
    queries = torch.cat([near_keys + scale * torch.randn(200, width, generator=generator), near_keys[:20]])

    def check_all_lookups() -> None:
        distances = codebook.distances(queries)
        inside = distances <= codebook.radii + codebook._slack(queries).unsqueeze(1)
        index = distances.argmin(dim=1)
        nearest = torch.where(inside.gather(1, index.unsqueeze(1)).squeeze(1), index, -1)
        assert torch.equal(codebook.lookup(queries), nearest)
        assert torch.equal(codebook.within_any_radius(queries), inside.any(dim=1))
        assert torch.equal(codebook.relative_distances(queries) <= 1, inside)
        for query, row in zip(queries[:30], distances[:30], strict=True):
            match = codebook.nearest(query)
            assert (match.index, match.distance) == (int(row.argmin()), float(row.min()))
        assert 20 < int((nearest >= 0).sum()) < 220
        assert bool((inside.any(dim=1) & (nearest < 0)).any()), "no query lies in a farther key's radius only"

    codebook.radii[: len(codebook) // 2] *= 4
    check_all_lookups()
    changed_key = codebook.nearest(queries[0]).index
    codebook._write(
        changed_key,
        (0,),
        (codebook.keys[changed_key] + 0.5, codebook._arrays["values"][changed_key], codebook.radii[changed_key]),
    )
    check_all_lookups()
    codebook.undo(Change(len(codebook) - 25))
    check_all_lookups()


def test_the_distance_of_two_keys_is_that_of_their_nearest_vectors() -> None:
    codebook = Options("euc", 2, gated=False, per_edit_eps=False).new_codebook(2)
    codebook.insert(torch.tensor([0.0, 0.0, 10.0, 0.0]), (1,), torch.zeros(2))
    assert codebook.nearest(torch.tensor([5.0, 0.0, 13.0, 0.0])).distance == 3
    assert codebook.lookup(torch.tensor([[0.5, 0.0], [9.5, 0.0], [5.0, 0.0]])).tolist() == [0, 0, -1]


def test_a_new_edit_is_compared_only_with_keys_whose_gate_is_near() -> None:
    """The nearest key does not count if its gate is too far away."""
    options = Options("euc", 1, gated=True, per_edit_eps=True)
    codebook = options.new_codebook(1)
    codebook.insert(torch.tensor([0.0]), (1,), torch.tensor([1.0, 1.0, 1.0, 0.0, 2.0]))
    codebook.insert(torch.tensor([1.0]), (2,), torch.tensor([1.0, 1.0, 0.0, 1.0, 0.1]))
    decision, match = codebook.decide(torch.tensor([1.0]), (3,), torch.tensor([1.0, 1.0, 1.0, 0.0, 0.1]))
    assert (decision, match.index, match.distance) == (Decision.SPLIT, 0, 1.0)
    decision, match = codebook.decide(torch.tensor([1.0]), (3,), torch.tensor([1.0, 1.0, -1.0, -1.0, 0.1]))
    assert (decision, match.index) == (Decision.ADD, -1)


def test_an_edit_with_the_same_target_is_covered_only_if_its_own_prompt_is() -> None:
    """The second vectors of all keys are equal, as those of names that begin a text nearly are."""
    codebook = Options("euc", 2, gated=False, per_edit_eps=False).new_codebook(1)
    decisions = [
        codebook.insert(torch.tensor([x, 100.0]), (1,), torch.zeros(2))[0] for x in (0.0, 10.0, 11.5, 0.5, 30.0)
    ]
    assert decisions == [Decision.ADD, Decision.ADD, Decision.ADD, Decision.COVERED, Decision.ADD]
    assert codebook.lookup(torch.tensor([[0.0], [10.0], [11.5], [0.5], [30.0]])).min() >= 0


def test_lookups_follow_a_changed_key_and_its_undo() -> None:
    codebook = Codebook(8, 1, eps=0.5, vectors_per_key=2, eps_expand="coverage")
    generator = torch.Generator().manual_seed(0)
    keys = 10 * torch.randn(BRUTE_FORCE_BELOW, 16, generator=generator)
    for number, key in enumerate(keys):
        codebook.insert(key, (number,), torch.zeros(1))
    assert codebook.lookup(keys[:, 8:]).tolist() == list(range(BRUTE_FORCE_BELOW))
    change = codebook.redo([(5, (99,), (keys[5] + 100, torch.ones(1), torch.tensor(0.5)))])
    assert codebook.lookup(keys[4:7, 8:]).tolist() == [4, -1, 6]
    assert codebook.lookup(keys[4:7, :8]).tolist() == [4, -1, 6]
    codebook.undo(change)
    assert codebook.lookup(keys[4:7, :8]).tolist() == [4, 5, 6]
