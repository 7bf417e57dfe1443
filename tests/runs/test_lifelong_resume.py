"""Lifelong runs of GRACE, resumed from files that were cut short, and what is refused. (Kills: test_killed_runs.py.)"""

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
from tests.support.run_files import bytes_of_files, read_lines, without_times
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

FACTS: list[dict[str, Any]] = [
    {"prompt": "the capital of France is", "target_new": "Rome", "rephrase_prompt": "capital of France"},
    {"prompt": "who wrote Hamlet", "target_new": "old king"},
    {"prompt": "the capital of France is", "target_new": "Rome", "case_id": "known"},
    {"prompt": "language spoken in Peru", "target_new": "bird"},
    {"prompt": "blue sea and", "target_new": "snow"},
]


def run_grace(out: Path, *, resume: bool = False, facts: Any = FACTS, model: Any = None, **options: Any) -> Any:
    values = {"n_iter": 12, "eps": 3.0, "stop_loss": 0.5, **options.pop("hparams", {})}
    hparams = GraceHyperParams(model_name="llama", inner_params=[FAMILIES["llama"][1]], **values)
    options = {"retention": [], "eval_at": (2,), "only_errors": True, **options}
    model = model or build_model("llama")
    return run_lifelong(model, build_tokenizer(), facts, hparams, out=out, resume=resume, **options)


def changed_model() -> Any:
    """Build the same model with one weight changed."""
    model = build_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3, 4] += 1e-3
    return model


def assert_same_run(folder: Path, other_folder: Path) -> None:
    """Compare the files of two runs, without the times."""
    for name in ("journal.jsonl", "metrics.jsonl", "generations.jsonl"):
        lines, other_lines = (without_times(read_lines(path / name)) for path in (folder, other_folder))
        assert lines == other_lines, name
    summary, other_summary = (json.loads((path / "summary.json").read_text()) for path in (folder, other_folder))
    may_differ = ("timing", "memory", "finished")
    assert {key: value for key, value in summary.items() if key not in may_differ} == {
        key: value for key, value in other_summary.items() if key not in may_differ
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = run_grace(folder)
    assert [entry["status"] for entry in result.journal] == ["edited", "edited", "skipped", "edited", "edited"]
    return folder


@pytest.fixture
def interrupted(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of it that ends after the fourth request, before the scoring."""
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "interrupted"))
    for name in ("summary.json", "generations.jsonl"):
        (folder / name).unlink()
    for name, lines in (("journal.jsonl", 4), ("metrics.jsonl", 1)):
        text = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(text[:lines]))
    return folder


@pytest.mark.parametrize("torn_line", ["", '{"status": "edi', '{"status": "edited", "case_id": 4}'])
def test_a_last_line_without_a_newline_is_dropped_on_resume(
    uninterrupted: Path, interrupted: Path, torn_line: str
) -> None:
    """A complete line counts only with its newline, too."""
    for name in ("journal.jsonl", "metrics.jsonl"):
        with (interrupted / name).open("a") as file:
            file.write(torn_line)
    run_grace(interrupted, resume=True)
    assert_same_run(uninterrupted, interrupted)


def test_deleted_texts_of_a_finished_run_are_generated_again(uninterrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "finished"))
    (folder / "generations.jsonl").unlink()
    run_grace(folder, resume=True)
    assert_same_run(uninterrupted, folder)


def test_edits_and_scorings_that_the_files_lack_are_made_again(uninterrupted: Path, interrupted: Path) -> None:
    """The state has four edits, the journal two, and the scoring after the second is missing."""
    lines = (interrupted / "journal.jsonl").read_text().splitlines(keepends=True)
    (interrupted / "journal.jsonl").write_text("".join(lines[:2]))
    (interrupted / "metrics.jsonl").write_text("")
    resumed = run_grace(interrupted, resume=True)
    assert_same_run(uninterrupted, interrupted)
    assert len(list((interrupted / "state").glob("step-*"))) == 4
    assert resumed.timing["seconds_editing"] >= sum(json.loads(line)["seconds"] for line in lines[:2])


def test_resuming_a_finished_run_changes_no_file(uninterrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    before = bytes_of_files(folder)
    result = run_grace(folder, resume=True)
    assert bytes_of_files(folder) == before
    assert result.metrics == json.loads((uninterrupted / "summary.json").read_text())["metrics"]


@pytest.mark.parametrize("damage", [b"", b'{"metrics": ', b"[]", b"{}"])
def test_a_damaged_summary_is_written_again(uninterrupted: Path, tmp_path: Path, damage: bytes) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (folder / "summary.json").write_bytes(damage)
    run_grace(folder, resume=True)
    assert_same_run(uninterrupted, folder)


def test_scorings_that_were_lost_are_reported(
    uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    run_grace(folder, resume=True)
    assert "lacks the scores" not in caplog.text
    (folder / "metrics.jsonl").unlink()
    run_grace(folder, resume=True)
    lines = [json.loads(line)["n_edits"] for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) > 1
    expected = ", ".join(map(str, lines[:-1]))
    assert f"metrics.jsonl: lacks the scores after these numbers of edits: {expected}. They" in caplog.text
    assert [json.loads(line)["n_edits"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == lines[-1:]


def test_a_run_killed_before_its_first_edit_starts_again(uninterrupted: Path, interrupted: Path) -> None:
    for name in ("journal.jsonl", "metrics.jsonl"):
        (interrupted / name).unlink()
    shutil.rmtree(interrupted / "state")
    run_grace(interrupted, resume=True)
    assert_same_run(uninterrupted, interrupted)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only_errors": False}, "only_errors was True, is False"),
        ({"eval_at": (2, 3)}, r"schedule.at was \[2\], is \[2, 3\]"),
        ({"eval_sample": 2}, "schedule.sample was None, is 2"),
        ({"hparams": {"eps": 2.0}}, "hparams.eps was 3.0, is 2.0"),
        ({"facts": FACTS[:4]}, "recorded.n_requests was 5, is 4"),
        ({"facts": [*FACTS[:4], {**FACTS[4], "ground_truth": "sun"}]}, "the data or their format file changed"),
        ({"model": changed_model()}, "recorded.weights was"),
        ({"text": "the sea " * 50}, "recorded.requests_sha256 was"),
    ],
)
def test_a_run_cannot_be_resumed_with_other_settings(interrupted: Path, options: dict[str, Any], message: str) -> None:
    before = bytes_of_files(interrupted)
    with pytest.raises(RunError, match=f"can't be resumed with other settings.*{message}"):
        run_grace(interrupted, resume=True, **options)
    assert bytes_of_files(interrupted) == before


def test_a_state_that_does_not_match_the_journal_is_refused(interrupted: Path) -> None:
    first, second = ((interrupted / "state" / f"step-00000{n}.safetensors") for n in (1, 2))
    second_bytes = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(RunError, match=r"step-000002\.safetensors: has been changed, or doesn't follow"):
        run_grace(interrupted, resume=True)
    second.write_bytes(second_bytes)
    (interrupted / "state" / "step-000003.safetensors").unlink()
    with pytest.raises(RunError, match=r"step-000003\.safetensors: can't be read"):
        run_grace(interrupted, resume=True)
    shutil.rmtree(interrupted / "state")
    with pytest.raises(RunError, match=r"state: the edits that the journal lists aren't there"):
        run_grace(interrupted, resume=True)
    lines = (interrupted / "journal.jsonl").read_text().replace('"case_id": 1', '"case_id": 7')
    (interrupted / "journal.jsonl").write_text(lines)
    with pytest.raises(RunError, match=r"journal\.jsonl: isn't the journal of these data"):
        run_grace(interrupted, resume=True)


def test_a_model_that_carries_edits_is_refused(tmp_path: Path) -> None:
    """Otherwise the "before" scores would be those of an edited model, and the saved state that of another model."""
    model = build_model("llama")
    run_grace(tmp_path / "first", facts=FACTS[:1], model=model)
    with pytest.raises(RunError, match=r"the model carries edits already.*Roll them back or load it anew"):
        run_grace(tmp_path / "second", facts=FACTS[1:2], model=model)
    assert not (tmp_path / "second").exists()


def test_a_run_of_a_method_that_saves_nothing_cannot_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_method(monkeypatch, "GRACE", state=None)
    with pytest.raises(RunError, match="GRACE can't save its edits, so a lifelong run of it can't be resumed"):
        run_grace(tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="out="):
        run_lifelong(None, None, FACTS, GraceHyperParams(model_name="m", inner_params=["x"]), resume=True)


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    held_folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="another process is working on this run"):
        run_grace(tmp_path / "run")
    held_folder.close()
    run_grace(tmp_path / "run", facts=FACTS[:1])
    assert (tmp_path / "run" / "summary.json").exists(), "a released lock must not stop the next run"


# ------------------------------------------------------------------ a full disk


@pytest.mark.parametrize("call", [9, 16, 25])
def test_a_run_stopped_by_a_full_disk_can_be_resumed(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The disk is full at one sync of a file; the resumed run has room again."""
    real_fsync, calls_left = os.fsync, [call]

    def fsync_on_full_disk(descriptor: int) -> None:
        calls_left[0] -= 1
        if calls_left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_fsync(descriptor)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_on_full_disk)
        with pytest.raises(RunError, match=r"can't be written: No space left on device.*What was written stays"):
            run_grace(out)
    resumed = run_grace(out, resume=True)
    assert_same_run(uninterrupted, out)
    repeated_state = run_grace(tmp_path / "repeated").edited_model.state_dict() if call == 16 else {}
    assert all(torch.equal(tensor, resumed.edited_model.state_dict()[name]) for name, tensor in repeated_state.items())
