"""What a lifelong run that was cut short is taken up from, and what it refuses. (Kills: test_kill.py.)"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import run_lifelong
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.runs.run_folder import RunFolder
from tests.support.registry import replace_method
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

FACTS: list[dict[str, Any]] = [
    {"prompt": "the capital of France is", "target_new": "Rome", "rephrase_prompt": "capital of France"},
    {"prompt": "who wrote Hamlet", "target_new": "old king"},
    {"prompt": "the capital of France is", "target_new": "Rome", "case_id": "known"},
    {"prompt": "language spoken in Peru", "target_new": "bird"},
    {"prompt": "blue sea and", "target_new": "snow"},
]


def _run(out: Path, *, resume: bool = False, facts: Any = FACTS, model: Any = None, **options: Any) -> Any:
    values = {"n_iter": 12, "eps": 3.0, "stop_loss": 0.5, **options.pop("hparams", {})}
    hparams = GraceHyperParams(model_name="llama", inner_params=[FAMILIES["llama"][1]], **values)
    options = {"retention": [], "eval_at": (2,), "only_errors": True, **options}
    model = model or build_model("llama")
    return run_lifelong(model, build_tokenizer(), facts, hparams, out=out, resume=resume, **options)


def _another() -> Any:
    """The same architecture with one other number in it."""
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 1e-3
    return model


def _timeless(path: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in entry.items() if "seconds" not in name} for entry in entries]


def _same(one: Path, other: Path) -> bool:
    for name in ("journal.jsonl", "metrics.jsonl", "generations.jsonl"):
        assert _timeless(one / name) == _timeless(other / name), name
    left, right = (json.loads((path / "summary.json").read_text()) for path in (one, other))
    drop = ("timing", "finished")
    assert {k: v for k, v in left.items() if k not in drop} == {k: v for k, v in right.items() if k not in drop}
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = _run(folder)
    assert [entry["status"] for entry in result.journal] == ["edited", "edited", "skipped", "edited", "edited"]
    return folder


@pytest.fixture
def cut(whole: Path, tmp_path: Path) -> Path:
    """The same, cut short after its fourth request and before the scoring."""
    folder = Path(shutil.copytree(whole, tmp_path / "cut"))
    for name in ("summary.json", "generations.jsonl"):
        (folder / name).unlink()
    for name, lines in (("journal.jsonl", 4), ("metrics.jsonl", 1)):
        text = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(text[:lines]))
    return folder


@pytest.mark.parametrize("torn", ["", '{"status": "edi', '{"status": "edited", "case_id": 4}'])
def test_a_torn_line_is_healed(whole: Path, cut: Path, torn: str) -> None:
    """A whole one, too, counts only with its newline."""
    for name in ("journal.jsonl", "metrics.jsonl"):
        with (cut / name).open("a") as file:
            file.write(torn)
    _run(cut, resume=True)
    assert _same(whole, cut)


def test_a_journal_that_stops_earlier_than_the_state(whole: Path, cut: Path) -> None:
    """Edits that were made and never noted are made again; so is a scoring that had been due."""
    lines = (cut / "journal.jsonl").read_text().splitlines(keepends=True)
    (cut / "journal.jsonl").write_text("".join(lines[:2]))
    (cut / "metrics.jsonl").write_text("")
    resumed = _run(cut, resume=True)
    assert _same(whole, cut)
    assert len(list((cut / "state").glob("step-*"))) == 4
    assert resumed.timing["seconds_editing"] >= sum(json.loads(line)["seconds"] for line in lines[:2])


def test_a_finished_run_is_left_as_it_is(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    result = _run(folder, resume=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert result.metrics == json.loads((whole / "summary.json").read_text())["metrics"]


def test_killed_before_anything_was_edited(whole: Path, cut: Path) -> None:
    for name in ("journal.jsonl", "metrics.jsonl"):
        (cut / name).unlink()
    shutil.rmtree(cut / "state")
    _run(cut, resume=True)
    assert _same(whole, cut)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only_errors": False}, "only_errors was True, is False"),
        ({"eval_at": (2, 3)}, r"schedule.at was \[2\], is \[2, 3\]"),
        ({"eval_sample": 2}, "schedule.sample was None, is 2"),
        ({"hparams": {"eps": 2.0}}, "hparams.eps was 3.0, is 2.0"),
        ({"facts": FACTS[:4]}, "recorded.n_requests was 5, is 4"),
        ({"facts": [*FACTS[:4], {**FACTS[4], "ground_truth": "sun"}]}, "recorded.requests_sha256 was"),
        ({"model": _another()}, "recorded.weights was"),
        ({"text": "the sea " * 50}, "recorded.requests_sha256 was"),
    ],
)
def test_other_settings_refuse_to_resume(cut: Path, options: dict[str, Any], says: str) -> None:
    before = {path.name: path.read_bytes() for path in cut.iterdir() if path.is_file()}
    with pytest.raises(RunError, match=f"can't be resumed with other settings.*{says}"):
        _run(cut, resume=True, **options)
    assert {path.name: path.read_bytes() for path in cut.iterdir() if path.is_file()} == before


def test_edits_that_are_not_the_journals(cut: Path) -> None:
    first, second = ((cut / "state" / f"step-00000{n}.safetensors") for n in (1, 2))
    kept = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match=r"step-000002\.safetensors: has been changed, or doesn't follow"):
        _run(cut, resume=True)
    second.write_bytes(kept)
    (cut / "state" / "step-000003.safetensors").unlink()
    with pytest.raises(RunError, match=r"step-000003\.safetensors: can't be read"):
        _run(cut, resume=True)
    shutil.rmtree(cut / "state")
    with pytest.raises(RunError, match=r"state: the edits that the journal lists aren't there"):
        _run(cut, resume=True)
    lines = (cut / "journal.jsonl").read_text().replace('"case_id": 1', '"case_id": 7')
    (cut / "journal.jsonl").write_text(lines)
    with pytest.raises(RunError, match=r"journal\.jsonl: isn't the journal of these data"):
        _run(cut, resume=True)


def test_a_run_begins_on_the_unedited_model(tmp_path: Path) -> None:
    """Else "before" is what an edited model says, and the state on disk is another model's."""
    model = build_model("llama")
    _run(tmp_path / "first", facts=FACTS[:1], model=model)
    with pytest.raises(RunError, match=r"the model carries edits already.*Roll them back or load it anew"):
        _run(tmp_path / "second", facts=FACTS[1:2], model=model)
    assert not (tmp_path / "second").exists()


def test_a_method_that_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_method(monkeypatch, "GRACE", state=None)
    with pytest.raises(RunError, match="GRACE can't save its edits, so a lifelong run of it can't be resumed"):
        _run(tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="out="):
        run_lifelong(None, None, FACTS, GraceHyperParams(model_name="m", inner_params=["x"]), resume=True)


def test_two_at_once(cut: Path, tmp_path: Path) -> None:
    working = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="another process is working on this run"):
        _run(tmp_path / "run")
    working.close()
    _run(tmp_path / "run", facts=FACTS[:1])
    assert (tmp_path / "run" / "summary.json").exists(), "the lock of another doesn't stay"


# ------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("call", [9, 16, 25])
def test_a_full_disk_stops_the_run_and_nothing_else(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """At some sync of some file; then there is room again."""
    really, left = os.fsync, [call]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(descriptor)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"can't be written: No space left on device.*What was written stays"):
            _run(out)
    resumed = _run(out, resume=True)
    assert _same(whole, out)
    again = _run(tmp_path / "again").edited_model.state_dict() if call == 16 else {}
    assert all(torch.equal(tensor, resumed.edited_model.state_dict()[name]) for name, tensor in again.items())
