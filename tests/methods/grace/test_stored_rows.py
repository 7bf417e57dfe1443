"""The rows of stored edits: what a part may hold, and what counts as damage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.grace.stored_rows import stored_edits

RECORD = {"case_id": 0, "prompt": "a", "target_new": "b", "subject": None, "ground_truth": None, "time": "2026-01-01"}


def part_with(queries: Tensor) -> EditsPart:
    """Return a part with an edit that added a key, and one that changed it, whose query is stored."""
    changed: list[dict[str, Any]] = [{"keys": [0], "labels": [[5]]}, {"keys": [0], "labels": [[6]], "query": 0}]
    tensors = {"keys": torch.ones(2, 3), "values": torch.ones(2, 4), "radii": torch.ones(2), "queries": queries}
    return EditsPart({}, [RECORD, {**RECORD, "case_id": 1}], {"changed": changed}, tensors)


def test_the_query_of_an_edit_that_changed_a_key_is_read() -> None:
    first, second = stored_edits(part_with(torch.full((1, 3), 2.0)), "edits")
    assert first.query is None
    assert second.query is not None and second.query.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    "queries",
    [torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3, dtype=torch.long), torch.ones(1, 2), torch.ones(0, 3)],
    ids=["bool", "integers", "another width", "none"],
)
def test_damaged_queries_are_reported(queries: Tensor) -> None:
    with pytest.raises(RunError, match="edits: GRACE's edits are incomplete or damaged: quer"):
        stored_edits(part_with(queries), "edits")


@pytest.mark.parametrize("count", [-1, 2, 0, "1", True, None], ids=repr)
def test_a_wrong_number_of_other_names_is_reported(count: Any) -> None:
    changed = [{"keys": [0], "labels": [[5]], "other_names": count}, {"keys": [1], "labels": [[5]]}]
    tensors = {"keys": torch.ones(2, 3), "values": torch.ones(2, 4), "radii": torch.ones(2)}
    part = EditsPart({}, [RECORD], {"changed": changed}, tensors)
    with pytest.raises(RunError, match="edits: GRACE's edits are incomplete or damaged: "):
        stored_edits(part, "edits")
    changed[0]["other_names"] = 1
    (edit,) = stored_edits(part, "edits")
    assert [row.key_index for row in edit.rows] == [0]
    assert [[row.key_index for row in rows] for rows, _ in edit.other_names] == [[1]]


@pytest.mark.parametrize("aliases", ["a", [1], None, {}])
def test_damaged_aliases_are_reported(aliases: Any) -> None:
    part = EditsPart({}, [{**RECORD, "aliases": aliases}], {"changed": [{"keys": [0], "labels": [[5]]}]}, _one_row())
    with pytest.raises(RunError, match="aliases can't be"):
        stored_edits(part, "edits")


@pytest.mark.parametrize("radius", [-1.0, float("nan")])
def test_a_radius_that_is_no_distance_is_reported(radius: float) -> None:
    tensors = {**_one_row(), "radii": torch.tensor([radius])}
    with pytest.raises(RunError, match="edits: GRACE's edits are incomplete or damaged: a radius is negative or NaN"):
        stored_edits(EditsPart({}, [RECORD], {"changed": [{"keys": [0], "labels": [[5]]}]}, tensors), "edits")


def _one_row() -> dict[str, Tensor]:
    return {"keys": torch.ones(1, 3), "values": torch.ones(1, 4), "radii": torch.ones(1)}
