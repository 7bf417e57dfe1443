"""Why a cell failed: the reasons name no option of the command that runs one run, since the sweep is given again."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.runs import run_folder
from easyedit_lifelong.runs.folder_advice import ONE_OF_SEVERAL, OWN_COMMAND
from easyedit_lifelong.runs.sweep.run_cell import outcome_of, run_cell
from tests.support.sweep_jobs import cell_job

OPTION = re.compile(r"(?<![\w-])--[a-z]")
BEGINS_AGAIN = "elete this folder; the same command then begins this run again."


def test_reasons_of_a_cell_say_what_to_do_in_a_sweep(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # as the process of a cell does; the end of this test returns
    job = cell_job(tmp_path, checkpoint, "cell")
    config, append = job.folder / "config.yaml", run_folder.append_durably

    def reason() -> str:
        failure = outcome_of(run_cell, job)
        assert failure is not None and not OPTION.search(failure), failure
        return failure

    def change(**values: Any) -> None:
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **values}))

    def full_at_the_second_edit(path: Path, lines: bytes, **options: Any) -> None:
        if path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(path, lines, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "append_durably", full_at_the_second_edit)
        full = reason()
    assert "No space left on device" in full
    assert full.endswith("Remove the cause, then give the same command again, which continues this run.")
    change(batch_size=2)
    assert reason().endswith(f"Choose what it began with, or d{BEGINS_AGAIN}")
    change(batch_size=1, schema_version=1)
    assert reason().endswith(f"D{BEGINS_AGAIN}")
    change(schema_version=run_folder.SCHEMA_VERSION)
    shutil.rmtree(job.folder / "state")
    lost = reason()
    assert "this run can't be resumed" in lost and lost.endswith(f"D{BEGINS_AGAIN}")
    journal = job.folder / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(b"damaged\n" + whole)
    damaged = reason()
    assert "journal.jsonl, line 1: is not JSON; this run can't be resumed. " in damaged
    assert damaged.endswith(f"D{BEGINS_AGAIN}")
    journal.write_bytes(whole)
    config.unlink()
    in_use = reason()
    assert "holds another run (journal.jsonl)" in in_use and in_use.endswith(f"D{BEGINS_AGAIN}")
    shutil.rmtree(job.folder)
    job.folder.touch()
    assert reason().endswith("is a file; delete or rename it, and give the same command again")


def test_a_run_that_cannot_be_continued_is_to_be_deleted_in_a_sweep() -> None:
    assert (
        ONE_OF_SEVERAL.after_error(False)
        == "Remove the cause, then delete this folder and give the same command again."
    )
    assert OWN_COMMAND.after_error(False) == "Remove the cause, then begin again."
