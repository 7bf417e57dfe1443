"""Many facts: known ones are traced, others counted; an interrupted tracing continues to the same end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError, RunError
from easyedit_lifelong.locate.known_facts import KnownFact, read_known_facts
from easyedit_lifelong.locate.trace_facts import trace_facts
from easyedit_lifelong.locate.trace_folder import CONFIG, FACTS, LOG_FILE, TraceFolder
from easyedit_lifelong.locate.trace_settings import TraceSettings

SETTINGS = TraceSettings(samples=2, window=2, severed=("mlp",))


@pytest.fixture(scope="module")
def finished(pair: Any, facts: list[KnownFact], tmp_path_factory: pytest.TempPathFactory) -> TraceFolder:
    """The folder of a finished tracing."""
    out = tmp_path_factory.mktemp("traced") / "out"
    counts = trace_facts(*pair, [*facts, KnownFact("none", "the moon is", "Peru", "blue")], out, SETTINGS)
    assert (counts.traced, counts.unknown, counts.skipped) == (4, 1, 1)
    return TraceFolder(out)


def test_facts_are_counted_by_status(finished: TraceFolder) -> None:
    traced = dict.fromkeys(["0", "1", "2", "3"], "traced")
    assert finished.statuses() == {**traced, "wrong": "unknown", "none": "skipped"}
    reasons = [
        json.loads(path.read_text()).get("reason", "") for path in sorted((finished.path / FACTS).glob("*.json"))
    ]
    assert reasons[1].startswith("the model answers ")
    assert "'Peru' isn't in the prompt" in reasons[5]
    log = (finished.path / "locate.log").read_text().splitlines()
    assert len(log) == 6
    assert "fact 0: traced in " in log[0]


def test_traces_are_read_as_they_were_written(finished: TraceFolder, pair: Any, facts: list[KnownFact]) -> None:
    first = next(finished.traces())
    assert first.fact.prompt == facts[0].prompt
    assert first.scores["state"].shape == (len(first.tokens), 4)
    assert set(first.severed) == {"mlp"}
    assert first.high > first.low
    assert first.tokens[slice(*first.subject)] == ["France"]


def test_an_interrupted_tracing_continues_to_the_same_end(
    finished: TraceFolder, pair: Any, facts: list[KnownFact], tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def interrupt(done: int, *_: Any) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trace_facts(*pair, facts, out, SETTINGS, report=interrupt)
    (out / FACTS / "000003.safetensors").write_bytes(b"written before the process was killed")
    with pytest.raises(RunError, match=r"holds another tracing.*--resume"):
        trace_facts(*pair, facts, out, SETTINGS)
    with pytest.raises(RunError, match="other settings: samples was 2, is 3"):
        trace_facts(*pair, facts, out, TraceSettings(samples=3, window=2, severed=("mlp",)), resume=True)
    noise = json.loads((out / CONFIG).read_text())["noise"]
    same_noise = TraceSettings(samples=2, window=2, severed=("mlp",), noise=noise)
    trace_facts(*pair, facts, out, same_noise, resume=True, limit=4)
    for ours, theirs in zip(TraceFolder(out).traces(), finished.traces(), strict=True):
        assert ours.tokens == theirs.tokens
        # The noise has the deviation of all subjects, and the finished tracing has one more.
        assert ours.high == theirs.high
    assert TraceFolder(out).statuses() == {"0": "traced", "wrong": "unknown", **dict.fromkeys("123", "traced")}


def test_a_tracing_that_has_only_its_settings_continues(finished: TraceFolder, tmp_path: Path) -> None:
    settings = {name: value for name, value in finished.settings().items() if name != "schema_version"}
    (tmp_path / CONFIG).write_bytes((finished.path / CONFIG).read_bytes())
    TraceFolder(tmp_path).begin(settings)
    TraceFolder(tmp_path).begin({**settings, "model": "moved/to/another/folder"})
    with pytest.raises(RunError, match="other settings: weights was"):
        TraceFolder(tmp_path).begin({**settings, "weights": "others"})
    assert (tmp_path / FACTS).is_dir()


def test_a_tracing_of_other_facts_is_not_continued(pair: Any, facts: list[KnownFact], tmp_path: Path) -> None:
    settings = TraceSettings(samples=2, window=2, severed=(), noise=0.5)
    trace_facts(*pair, facts[:2], tmp_path, settings)
    before = {path: path.read_bytes() for path in (tmp_path / FACTS).iterdir()}
    changed = [
        [facts[1], facts[0]],
        [replace(fact, fact_id=f"other-{fact.fact_id}") for fact in facts],
        [replace(facts[0], prompt=f"not far . {facts[0].prompt}"), *facts[1:]],
        facts[:1],
    ]
    for others in changed:
        with pytest.raises(RunError, match=r"00000[01]\.json: is of the fact .*Resume with the data"):
            trace_facts(*pair, others, tmp_path, settings, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / FACTS).iterdir()} == before
    moved = [replace(fact, where="elsewhere") for fact in facts]
    trace_facts(*pair, moved, tmp_path, settings, resume=True)  # more facts from another file
    assert len(TraceFolder(tmp_path).statuses()) == len(facts)


def test_a_number_and_its_text_are_two_facts(pair: Any, facts: list[KnownFact], tmp_path: Path) -> None:
    settings = TraceSettings(samples=2, window=2, severed=(), noise=0.5)
    two = [replace(facts[0], fact_id=1), replace(facts[2], fact_id="1")]
    trace_facts(*pair, two, tmp_path, settings, limit=1)
    assert trace_facts(*pair, two, tmp_path, settings, resume=True).traced == 2


def test_a_full_disk_is_named(pair: Any, facts: list[KnownFact], tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).mkdir()  # as a disk that is full, it can't be written
    with pytest.raises(RunError, match=f"{tmp_path}: the lines of the log can't be written"):
        trace_facts(*pair, facts[:1], tmp_path, TraceSettings(samples=2, window=2, severed=(), noise=0.5))


def test_the_limit_counts_traced_facts(pair: Any, facts: list[KnownFact], tmp_path: Path) -> None:
    counts = trace_facts(*pair, facts, tmp_path / "out", SETTINGS, limit=2)
    assert (counts.traced, counts.unknown) == (2, 1)
    again = trace_facts(*pair, facts, tmp_path / "out", SETTINGS, limit=2, resume=True)
    assert (again.traced, again.unknown) == (2, 1)


def test_any_answer_traces_facts_that_the_model_does_not_know(
    pair: Any, facts: list[KnownFact], tmp_path: Path
) -> None:
    settings = TraceSettings(samples=1, kinds=("state",), severed=(), any_answer=True)
    counts = trace_facts(*pair, facts[:2], tmp_path / "out", settings)
    assert (counts.traced, counts.unknown) == (2, 0)


def test_damaged_files_are_named(finished: TraceFolder, tmp_path: Path) -> None:
    folder = TraceFolder(tmp_path)
    with pytest.raises(RunError, match="holds no tracing"):
        folder.settings()
    (tmp_path / FACTS).mkdir()
    (tmp_path / FACTS / "000000.json").write_text("{")
    with pytest.raises(RunError, match=r"000000.json: is damaged"):
        folder.statuses()
    entry = json.loads((finished.path / FACTS / "000000.json").read_text())
    (tmp_path / FACTS / "000000.json").write_text(json.dumps(entry))
    with pytest.raises(RunError, match=r"000000.safetensors: is missing or damaged. Delete 000000.json"):
        list(folder.traces())


def test_scores_with_a_flipped_bit_are_refused(finished: TraceFolder, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "copy")
    folder, scores = TraceFolder(tmp_path / "copy"), tmp_path / "copy" / FACTS / "000000.safetensors"
    content = bytearray(scores.read_bytes())
    content[-3] ^= 16
    scores.write_bytes(content)
    with pytest.raises(RunError, match=r"000000.safetensors: is missing or damaged"):
        list(folder.traces())
    file = scores.with_suffix(".json")
    entry = json.loads(file.read_text())
    del entry["scores_sha256"]
    file.write_text(json.dumps(entry))
    assert len(list(folder.traces())) == len(list(finished.traces()))  # of an earlier release, which had no digest


def test_facts_are_read_under_both_names(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    records = [
        {"known_id": 7, "prompt": "the capital of France is", "subject": "France", "attribute": "Paris"},
        {"prompt": "Hamlet is by", "subject": "Hamlet", "ground_truth": "Shakespeare", "target_new": "Rome"},
    ]
    path.write_text(json.dumps(records))
    assert [(fact.fact_id, fact.answer) for fact in read_known_facts(path)] == [(7, "Paris"), (1, "Shakespeare")]
    path.write_text(json.dumps([{"prompt": "x", "subject": "x"}]))
    with pytest.raises(DataError, match="record 0, field 'attribute': is missing"):
        read_known_facts(path)
    path.write_text(json.dumps([records[0], records[0]]))
    with pytest.raises(DataError, match="identifier 7 of another record"):
        read_known_facts(path)
    path.write_text(json.dumps([{**records[0], "known_id": "x\ud83d"}]))  # files can't have half of a surrogate pair
    with pytest.raises(DataError, match="record 0, field 'known_id': holds an incomplete character"):
        read_known_facts(path)


def test_keys_that_a_fact_has_twice_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text('{"prompt": "a b", "prompt": "c b", "subject": "b", "attribute": "d"}\n')
    assert [fact.prompt for fact in read_known_facts(path)] == ["c b"]
    assert f"{path}: keys that an object has more than once, of which the last value counts: 'prompt'" in caplog.text


def test_no_facts_are_an_error(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no facts to trace"):
        trace_facts(*pair, [], tmp_path)
    assert torch.is_grad_enabled()
