"""Cases of merged folders have unique names."""

from __future__ import annotations

from easyedit_lifelong.methods.shared.case_names import CaseNames
from easyedit_lifelong.methods.shared.records import EditRecord


def record(case_id: int | str) -> EditRecord:
    return EditRecord(case_id, "the capital of France is", "Rome", None, None, "2026-01-01T00:00:00+00:00")


def names_of(*folders: tuple[str, list[int | str]]) -> list[int | str]:
    """Return the case_ids in the merged folder."""
    names = CaseNames()
    merged = []
    for folder, cases in folders:
        names.begin_folder(folder)
        merged += [names.named(record(case)).case_id for case in cases]
    return merged


def test_a_case_id_of_an_earlier_folder_gets_the_name_of_its_folder() -> None:
    assert names_of(("one", [1, 2]), ("two", [2, 3, 2])) == [1, 2, "2@two", 3, "2@two"]
    assert names_of(("one", [1, "1@two"]), ("two", [1])) == [1, "1@two", "1@two-2"]


def test_a_new_case_id_is_not_that_of_another_case_of_the_same_folder() -> None:
    assert names_of(("one", [1]), ("two", ["1@two", 1, "1@two"])) == [1, "1@two", "1@two-2", "1@two"]
    merged = names_of(("one", [1]), ("two", [1, "1@two", 1]))
    assert merged == [1, "1@two", "1@two@two", "1@two"]
