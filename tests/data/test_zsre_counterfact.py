"""Native loaders give the records, requests and errors of EasyEdit's loaders."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.bridge import easyedit_loaders, find_easyedit
from easyedit_lifelong.data import samples
from easyedit_lifelong.data.readers import read_counterfact, read_requests, read_zsre
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.plugins import get_plugins
from tests.support.dataset_records import COUNTERFACT, ZSRE
from tests.support.record_loaders import use_loader
from tests.support.thoroughness import examples

needs_easyedit = pytest.mark.skipif(
    find_easyedit() is None, reason="EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)"
)

FORMATS: dict[str, Any] = {"zsre": read_zsre, "counterfact": read_counterfact}
SPECIFIC = {"relation_specificity_prompt": "p", "relation_specificity_ground_truth": "a"}
PORTABLE = {"portability_prompt": "p", "portability_ground_truth": "a"}
SETS = {"locality": {"near": {"prompt": "p", "ground_truth": "a"}}, "portability": {"hop": 5}}


def _without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


UNUSUAL: dict[str, list[Any]] = {
    "zsre": [
        ZSRE,
        {**ZSRE, **SPECIFIC},
        {**ZSRE, **PORTABLE, **SETS, "prompt": "x", "target_new": "y", "case_id": 7},
        _without(ZSRE, "subject"),
        {**ZSRE, "subject": ""},
        {**ZSRE, "subject": None},
        {**ZSRE, "alt": " Oulu "},
        {**ZSRE, "answers": ["Helsinki", "Helsingfors", 5]},
        {**ZSRE, "loc": "is it a nq question: who wrote it"},
        {**ZSRE, "relation_specificity_prompt": None},
        _without(ZSRE, "cond", "pred"),
        {**ZSRE, "answers": [" "]},
        {**ZSRE, "subject": 5},
        {**ZSRE, "loc_ans": "\ud83d"},
    ],
    "counterfact": [
        COUNTERFACT,
        {**COUNTERFACT, **SPECIFIC, "case_id": "x"},
        {**_without(COUNTERFACT, "case_id"), **PORTABLE},
        {**COUNTERFACT, **SETS, "case_id": 2.5, "extra": 1},
        {**COUNTERFACT, "case_id": 11, "portability_extra": [1]},
        _without(COUNTERFACT, "subject", "case_id"),
        {**COUNTERFACT, "case_id": 12, "subject": ""},
        {**COUNTERFACT, "case_id": 13, "target_new": " Nile "},
    ],
}


def _read(path: Path, read: Callable[[Path], Any], loader: str) -> tuple[Any, list[str]]:
    """Return requests with their sources, or the error's message."""
    with pytest.MonkeyPatch.context() as patch:
        use_loader(loader, patch)
        try:
            requests = read_requests(path, read)
        except DataError as error:
            return str(error), []
        return requests, [request.source for request in requests]


def assert_loaders_agree(path: Path, read: Callable[[Path], Any]) -> Any:
    expected = _read(path, read, "easyedit")
    assert _read(path, read, "native") == expected
    return expected[0]


@needs_easyedit
@pytest.mark.parametrize("name", FORMATS)
def test_both_loaders_agree_on_unusual_records(name: str, tmp_path: Path) -> None:
    read = FORMATS[name]
    results = []
    for number, records in enumerate([UNUSUAL[name], *([record] for record in UNUSUAL[name])]):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        results.append(assert_loaders_agree(path, read))
    assert any(isinstance(result, str) for result in results), "no record is refused"
    assert any(isinstance(result, list) for result in results), "no record is accepted"


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2), max_size=2)


@needs_easyedit
@examples(60)
@given(data=st.data(), name=st.sampled_from(sorted(FORMATS)))
def test_both_loaders_agree_on_any_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    good = {"zsre": ZSRE, "counterfact": COUNTERFACT}[name]
    fields = st.sampled_from([*good, *SPECIFIC, *PORTABLE, *SETS])
    changes = data.draw(st.lists(st.dictionaries(fields, VALUES, max_size=2), min_size=1, max_size=3))
    records = [{**good, "case_id": number, **change} for number, change in enumerate(changes)]
    path = tmp_path_factory.mktemp("records") / "facts.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    assert_loaders_agree(path, FORMATS[name])


@needs_easyedit
@pytest.mark.parametrize(("name", "path"), [("zsre", samples.ZSRE), ("counterfact", samples.COUNTERFACT)])
def test_both_loaders_agree_on_the_sample_facts(name: str, path: Path) -> None:
    assert len(assert_loaders_agree(path, FORMATS[name])) >= 60


@needs_easyedit
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("zsre", "zsre/zsre_mend-500.json"),
        ("zsre", "zsre/zsre-3k.json"),
        ("counterfact", "counterfact/counterfact-edit-2000.json"),
        ("counterfact", "counterfact/counterfact-edit-10k.json"),
    ],
)
def test_both_loaders_agree_on_the_published_files(name: str, file: str) -> None:
    path = Path(os.environ.get("EASYEDIT_LIFELONG_DATA", "shared/data")) / file
    if not path.is_file():
        pytest.skip(f"EASYEDIT_LIFELONG_DATA names no folder with {file}")
    assert len(assert_loaders_agree(path, FORMATS[name])) >= 500


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("name", FORMATS)
def test_both_loaders_refuse_json_lines(name: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(UNUSUAL[name][0]), encoding="utf-8")
    with pytest.raises(DataError, match=r"facts\.jsonl: EasyEdit's loaders read a JSON list, not JSON Lines"):
        read_requests(path, FORMATS[name])


def test_easyedits_loaders_are_used_only_where_easyedit_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaders = get_plugins().loaders
    assert {loader.name: loader.load for loader in loaders} == {
        "zsre": easyedit_loaders.read_zsre,
        "counterfact": easyedit_loaders.read_counterfact,
    }
    monkeypatch.setattr("easyedit_lifelong.bridge.plugin.find_easyedit", lambda: None)
    assert not any(loader.available() for loader in loaders)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([ZSRE]), encoding="utf-8")
    assert len(read_requests(path, read_zsre)) == 1
