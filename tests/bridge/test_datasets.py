"""Records of zsRE and CounterFact files, read by EasyEdit's loaders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.bridge import read_counterfact, read_zsre
from easyedit_lifelong.errors import DataError

pytestmark = pytest.mark.usefixtures("easyeditor")

ZSRE: dict[str, Any] = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father",
    "loc_ans": "Hugo Weaving",
    "cond": "…",
}
COUNTERFACT = {
    "prompt": "The mother tongue of Danielle Darrieux is",
    "target_new": "English",
    "ground_truth": "French",
    "subject": "Danielle Darrieux",
    "rephrase_prompt": "Danielle Darrieux, a native",
    "locality_prompt": "Michel Rocard is a native speaker of",
    "locality_ground_truth": "French",
    "portability_prompt": "She speaks",
    "extra": 1,
}


def _write(folder: Path, records: Any) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def test_zsre_records_are_read_and_those_without_an_answer_left_out(tmp_path: Path) -> None:
    empty, specific = (
        {**ZSRE, "alt": ""},
        {"relation_specificity_prompt": "p", "relation_specificity_ground_truth": "a"},
    )
    records = read_zsre(_write(tmp_path, [ZSRE, empty, {**ZSRE, "subject": "Dürer", **specific}]))
    assert {name: records[1][name] for name in specific} == specific
    assert [record["case_id"] for record in records] == [0, 2]
    assert [record["subject"] for record in records] == ["Watts Humphrey", "Dürer"]
    assert records[0] == {
        "case_id": 0,
        "prompt": ZSRE["src"],
        "target_new": ZSRE["alt"],
        "subject": ZSRE["subject"],
        "ground_truth": ZSRE["answers"][0],
        "rephrase_prompt": ZSRE["rephrase"],
        "locality_prompt": ZSRE["loc"],
        "locality_ground_truth": ZSRE["loc_ans"],
    }


def test_counterfact_records_keep_their_known_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = read_counterfact(_write(tmp_path, [COUNTERFACT, {**COUNTERFACT, "case_id": 7}]))
    assert [record["case_id"] for record in records] == [0, 7]
    assert {k: v for k, v in records[0].items() if k != "case_id"} == {
        k: v for k, v in COUNTERFACT.items() if k != "extra"
    }
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("records", [[{**ZSRE, "loc": "no prefix"}], [{"src": "x"}], {"a": 1}, [1]])
def test_a_file_that_easyedit_cannot_read_is_refused_with_its_path(tmp_path: Path, records: Any) -> None:
    path = _write(tmp_path, records)
    with pytest.raises(DataError, match="ZsreDataset") as caught:
        read_zsre(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_json_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.json"):
        read_counterfact(path)
