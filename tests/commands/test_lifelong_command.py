"""``lifelong``: its output, its files, where the results go, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import RunCommand


def test_a_run_writes_its_files_and_prints_its_scores(lifelong_cli: RunCommand, checkpoint: Path) -> None:
    code, out, err = lifelong_cli.run("--eval-every", 2)
    assert code == 0, err
    assert sorted(path.name for path in lifelong_cli.out.iterdir()) == [
        ".lock",
        "config.yaml",
        "generations.jsonl",
        "journal.jsonl",
        "metrics.jsonl",
        "state",
        "summary.json",
    ]
    summary = lifelong_cli.summary()
    assert (summary["method"], summary["model"], summary["data"]) == ("GRACE", str(checkpoint), str(lifelong_cli.data))
    assert summary["n_edits"] == 3
    points = [json.loads(line)["n_edits"] for line in (lifelong_cli.out / "metrics.jsonl").read_text().splitlines()]
    assert points == [2, 3]
    for name in ("ES", "ERR", "TRR", "locality", "generation_match"):
        assert name in out
    assert "3/3 edits" in out, "progress isn't printed where the output is no terminal"
    assert "s an edit (mean); 0 failed, 0 skipped" in out
    times, results = out.strip().splitlines()[-2:]
    assert re.fullmatch(
        r"[\d.]+ s \(.*editing [\d.]+ s, scoring .*\); .* of memory at most; .* on disk an edit\.", times
    )
    assert results == f"Results: {lifelong_cli.out}"
    assert "Traceback" not in out + err


def test_scorings_that_never_come_are_reported(lifelong_cli: RunCommand, caplog: pytest.LogCaptureFixture) -> None:
    code, _, err = lifelong_cli.run("--eval-at", "1,3,50,100")
    assert code == 0, err
    message = "the run has 3 edits, so edits are not scored after 50, 100; they are scored after the last one"
    assert [text for text in caplog.messages if "scored" in text] == [message]


def test_options_reach_the_run(lifelong_cli: RunCommand, checkpoint: Path, tmp_path: Path) -> None:
    lifelong_cli.write(model_name="nothing", device="cuda:9")
    other = Path(shutil.copytree(checkpoint, tmp_path / "other-model"))
    code, _, err = lifelong_cli.run(
        *("--edits", 2, "--only-errors", "--model", other, "--device", "cpu", "--track", "csv", "--format", "json"),
        *("--joiner", " not ", "--seed", 3, "--eos"),
    )
    assert code == 0, err
    summary = lifelong_cli.summary()
    assert (summary["n_requests"], summary["only_errors"], summary["model"]) == (2, True, str(other))
    hparams = summary["hparams"]
    assert (hparams["joiner"], hparams["seed"], hparams["eos"]) == (" not ", 3, True)
    assert (lifelong_cli.out / "metrics.csv").read_text().startswith("n_edits,")


def test_held_out_facts_have_a_default(lifelong_cli: RunCommand) -> None:
    code, _, err = lifelong_cli.run(retention=None)
    assert code == 0, err
    assert "TRR" in lifelong_cli.summary()["metrics"]


def test_the_schedule_options_determine_the_scorings(lifelong_cli: RunCommand) -> None:
    code, out, err = lifelong_cli.run("--eval-at", "1,2", "--eval-sample", 1)
    assert code == 0, err
    assert "3 edits, scores of a sample of 1 (ES: of all)" in out
    lines = [json.loads(line) for line in (lifelong_cli.out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["n_edits"], line.get("sampled")) for line in lines] == [(1, None), (2, 1), (3, 1)]


def test_a_resumed_run_gives_the_metrics_of_an_uninterrupted_one(lifelong_cli: RunCommand) -> None:
    assert lifelong_cli.run()[0] == 0
    uninterrupted = lifelong_cli.summary()
    for name in ("summary.json", "metrics.jsonl"):
        (lifelong_cli.out / name).unlink()
    journal = lifelong_cli.out / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]) + '{"status": "edi')
    code, _, err = lifelong_cli.run("--resume")
    assert code == 0, err
    summary = lifelong_cli.summary()
    assert (summary["metrics"], summary["intervals"]) == (uninterrupted["metrics"], uninterrupted["intervals"])
    err = lifelong_cli.run("--resume", "--only-errors")[2]
    assert "only_errors was False, is True" in err
    assert "holds no run to resume" in lifelong_cli.error_of("--resume", out=lifelong_cli.folder / "nothing")


def test_a_limit_above_the_number_of_records_is_accepted(lifelong_cli: RunCommand) -> None:
    assert lifelong_cli.run("--edits", 100)[0] == 0


def test_brackets_in_paths_are_printed_unchanged(lifelong_cli: RunCommand) -> None:
    """Rich would read [bold] in a path as markup."""
    data = lifelong_cli.folder / "facts[bold].json"
    lifelong_cli.data.rename(data)
    code, out, err = lifelong_cli.run(data=data, out=lifelong_cli.folder / "run[red]")
    assert code == 0, err
    unwrapped = out.replace("\n", "")
    assert "facts[bold].json" in unwrapped
    assert "run[red]" in unwrapped


def test_a_path_that_looks_like_broken_markup_does_not_fail_the_run(lifelong_cli: RunCommand) -> None:
    """Rich raises an error for broken markup, and the last line of a long run prints the path."""
    folder = lifelong_cli.folder / "a["
    folder.mkdir()
    code, _, err = lifelong_cli.run(out=folder / "bold]")
    assert code == 0, err


def test_a_folder_with_another_run_is_refused(lifelong_cli: RunCommand) -> None:
    assert lifelong_cli.run()[0] == 0
    message = lifelong_cli.error_of()
    assert message.startswith(f"{lifelong_cli.out}: holds another run")
    assert "--out" in message


def test_a_folder_with_another_run_is_refused_before_the_model_loads(lifelong_cli: RunCommand) -> None:
    lifelong_cli.out.mkdir()
    (lifelong_cli.out / "journal.jsonl").write_text("")
    assert "holds another run" in lifelong_cli.error_of(model=lifelong_cli.folder / "nothing")


def test_a_file_as_output_folder_is_refused(lifelong_cli: RunCommand) -> None:
    assert lifelong_cli.error_of(out=lifelong_cli.data) == f"{lifelong_cli.data}: is a file; --out must name a folder"
    nowhere = lifelong_cli.folder / "nothing"
    assert "can't make this folder" in lifelong_cli.error_of(out=lifelong_cli.data / "below" / "deep", model=nowhere), (
        "the model was loaded first"
    )


def test_an_output_folder_that_cannot_be_created_is_refused(
    lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, original = lifelong_cli.folder / "closed", os.access
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and original(path, mode))
    message = lifelong_cli.error_of(out=closed / "deep" / "run", model=lifelong_cli.folder / "nothing")
    assert f"{closed} can't be written to" in message


@pytest.mark.parametrize("option", ["out", "data", "hparams", "retention", "model"])
def test_the_home_folder_of_an_unknown_user_is_refused(lifelong_cli: RunCommand, option: str) -> None:
    assert "~nosuchuser/x: the home folder isn't known, or there is no such user" in lifelong_cli.error_of(
        **{option: "~nosuchuser/x"}
    )


def test_a_system_error_is_one_line_and_verbose_shows_its_traceback(
    lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", refuse)
    assert lifelong_cli.error_of() == "/some/file: Permission denied"
    code, _, err = lifelong_cli.run("-v")
    assert (code, "Traceback" in err) == (1, True)


def test_a_failed_start_does_not_block_the_next_run(lifelong_cli: RunCommand) -> None:
    """After a mistake is corrected, the same command must not meet leftovers of the first attempt."""
    lifelong_cli.write(inner_params=["model.layers[9].mlp.down_proj"])
    assert lifelong_cli.run()[0] == 1
    lifelong_cli.write()
    code, _, err = lifelong_cli.run()
    assert code == 0, err


def test_verbose_shows_the_traceback_before_the_message(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write("{")
    code, _, err = lifelong_cli.run("-v")
    assert code == 1
    assert "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("easyedit-lifelong: ")


def test_an_interrupt_exits_with_130_and_no_traceback(
    lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", stop)
    code, _, err = lifelong_cli.run()
    assert code == 130
    assert "Traceback" not in err
    assert "interrupted" in err


def test_an_unexpected_exception_is_not_caught(lifelong_cli: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors of this package become one line: the traceback of a bug is needed to correct it."""

    def crash(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", crash)
    with pytest.raises(ZeroDivisionError):
        lifelong_cli.run()
