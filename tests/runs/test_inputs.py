"""Reading the data of a run, and the description by which they can be read again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.samples import ZSRE
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.runs.experiment import Data, Experiment, Inputs
from easyedit_lifelong.runs.inputs import read_inputs

FACTS = [{"prompt": f"p{n}", "target_new": "t", "rephrase_prompt": [f"q{n}", f"r{n}"]} for n in range(3)]


def experiment_of(data: Any, **settings: Any) -> Experiment:
    return Experiment("lifelong", None, data, **settings)


def test_a_data_file_is_read_and_described_with_path_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.json").write_text(json.dumps(FACTS))
    Path("held.json").write_text(json.dumps([{"prompt": "p", "answer": "a"}]))
    Path("text.txt").write_bytes(b"a text\r\n")
    data = Data("f.json", edits=2, edit_with=1)
    inputs = read_inputs(experiment_of(data, retention="held.json", text="text.txt"), 0)
    assert len(inputs.requests) == 4, "each of the two records gives a request and one paraphrase as a request"
    assert (inputs.name, inputs.task, inputs.text) == ("f.json", "qa", "a text\r\n")
    assert inputs.retention == [Probe("p", "a")]
    assert inputs.source is not None
    assert inputs.source.data == {
        "path": str(tmp_path / "f.json"),
        "format": "json",
        "edits": 2,
        "edit_with": 1,
        "sha256": hashlib.sha256(Path("f.json").read_bytes()).hexdigest(),
    }
    assert (inputs.source.retention, inputs.source.text) == (str(tmp_path / "held.json"), str(tmp_path / "text.txt"))


def test_contradicting_records_are_reported_in_a_run_s_notes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps([*FACTS[:2], {**FACTS[0], "target_new": "other"}]))
    inputs = read_inputs(experiment_of(Data(str(file))), 0)
    (note,) = inputs.notes
    assert "prompts with several targets (1)" in note
    assert caplog.messages == [note]
    assert read_inputs(experiment_of(Data(str(file), edits=2)), 0).notes == [], "only the run's requests count"


def test_an_edited_held_out_fact_is_reported_in_a_run_s_notes(tmp_path: Path) -> None:
    file, held_out = tmp_path / "f.json", tmp_path / "held.json"
    file.write_text(json.dumps([*FACTS, {"prompt": "The capital city of France is", "target_new": "Lyon"}]))
    held_out.write_text(json.dumps([{"prompt": "P1", "answer": "a"}]))
    (note,) = read_inputs(experiment_of(Data(str(file))), 0).notes
    assert "held-out facts that a request edits (1): fact 0 (by 3)" in note, "the sample data's facts are the default"
    (note,) = read_inputs(experiment_of(Data(str(file)), retention=str(held_out)), 0).notes
    assert "fact 0 (by 1)" in note
    assert read_inputs(experiment_of(Data(str(file)), retention=()), 0).notes == []


def test_sample_data_are_described_by_their_name() -> None:
    inputs = read_inputs(experiment_of(Data(str(ZSRE), edits=1), retention=()), 0)
    assert inputs.source is not None
    assert inputs.source.data == {"sample": "zsre", "format": "zsre", "edits": 1}
    assert (inputs.retention, inputs.source.retention, inputs.source.text) == ([], [], None)


def test_records_before_the_offset_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps(FACTS))
    inputs = read_inputs(experiment_of(Data(str(file), edits=1, offset=1)), 0)
    assert [(request.case_id, request.prompt) for request in inputs.requests] == [(1, "p1")]
    assert inputs.source is not None and inputs.source.data["offset"] == 1
    with pytest.raises(DataError, match=f"--offset: 3 records to skip, but {file} has only 3"):
        read_inputs(experiment_of(Data(str(file), offset=3)), 0)


def test_shuffled_records_are_drawn_by_the_seed_from_all_after_the_offset(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps([{"prompt": f"p{n}", "target_new": "t"} for n in range(30)]))
    data = Data(str(file), edits=5, offset=10, shuffle=True)
    drawn = [[request.case_id for request in read_inputs(experiment_of(data), seed).requests] for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len(set(ids)) == 5 and min(ids) >= 10 for ids in drawn)
    assert max(max(ids) for ids in drawn) > 15
    source = read_inputs(experiment_of(data), 0).source
    assert source is not None and source.data["shuffle"] is True


def test_records_with_one_id_cant_be_shuffled(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps([{"case_id": 3, "prompt": "p", "target_new": "t"}] * 2))
    with pytest.raises(DataError, match="case_id"):
        read_inputs(experiment_of(Data(str(file), edits=1, shuffle=True)), 0)


def test_data_in_memory_are_returned_unchanged() -> None:
    given = Inputs([EditRequest(0, "p", "t")], name="mine")
    assert read_inputs(experiment_of(given), 0) is given


def test_empty_data_and_duplicate_case_ids_are_refused() -> None:
    with pytest.raises(DataError, match="there are no requests to edit"):
        read_inputs(experiment_of(Inputs([])), 0)
    with pytest.raises(DataError, match="case_id"):
        read_inputs(experiment_of(Inputs([EditRequest(0, "p", "t"), EditRequest(0, "q", "t")])), 0)


def test_a_data_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text(json.dumps(FACTS))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_inputs(experiment_of(Data(str(file), sha256=digest.upper())), 0).requests
    file.write_text(json.dumps(FACTS[:2]))
    with pytest.raises(DataError, match=f"--data: .*f.json has the SHA-256 .*, not {digest}"):
        read_inputs(experiment_of(Data(str(file), sha256=digest)), 0)
