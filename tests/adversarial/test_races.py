"""Several writers of one folder at once: no edit is lost, no folder destroyed, and a reader meets complete edits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import merge_edits, save_edits
from easyedit_lifelong.commands import edit
from easyedit_lifelong.edits import edits_folder
from easyedit_lifelong.edits.edits_folder import INDEX, lock_edits
from easyedit_lifelong.edits.folder_parts import read_edits
from easyedit_lifelong.edits.folder_tensors import read_folder, write_folder
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.errors import RunError
from tests.support import thoroughness
from tests.support.edits_command_line import EditsCommandLine
from tests.support.grace_edits import EDITS, edited
from tests.support.thoroughness import default_cases

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 20 if thoroughness.full else 2


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the edits of seven cases."""
    folder = tmp_path_factory.mktemp("race") / "edits"
    save_edits(edited()[0], folder)
    return folder


def outcomes(calls: list[Callable[[], Any]]) -> list[Any]:
    """Start all calls at once, each in a thread; return what each returned, or its exception."""
    barrier = threading.Barrier(len(calls))

    def outcome(call: Callable[[], Any]) -> Any:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


def cases_in(folder: Path) -> list[str]:
    return [record["case_id"] for _, part in read_edits(folder).parts for record in part.edits]


@pytest.mark.parametrize("_", range(ROUNDS))
def test_rollbacks_in_place_at_once_all_hold(edits: Path, tmp_path: Path, _: int) -> None:
    shutil.copytree(edits, tmp_path / "edits")
    removed = [str(record["case_id"]) for record in EDITS][:5]
    calls = [lambda case=case: rollback_folder(tmp_path / "edits", cases=[case]) for case in removed]
    assert [type(result).__name__ for result in outcomes(calls)] == ["FolderRollback"] * 5
    assert cases_in(tmp_path / "edits") == [record["case_id"] for record in EDITS][5:]


@pytest.mark.parametrize("_", range(ROUNDS))
def test_one_of_several_writers_to_a_new_folder_wins(edits: Path, tmp_path: Path, _: int) -> None:
    calls: list[Callable[[], Any]] = [
        *(lambda case=case: rollback_folder(edits, cases=[case], out=tmp_path / "out") for case in ("c0", "c1")),
        lambda: merge_edits([edits, edits], tmp_path / "out"),
    ]
    results = outcomes(calls)
    refused = [result for result in results if isinstance(result, RunError)]
    assert len(refused) == 2, results
    assert all("holds edits already; name another folder" in str(error) for error in refused)
    (winner,) = (n for n, result in enumerate(results) if not isinstance(result, Exception))
    all_cases = [record["case_id"] for record in EDITS]
    left_out = {0: "c0", 1: "c1"}.get(winner)
    assert cases_in(tmp_path / "out") == [case for case in all_cases if case != left_out]


def test_a_reader_sees_complete_edits_while_others_write(tmp_path: Path) -> None:
    write_folder(tmp_path, {"writer": 0}, {"a": torch.full((500,), 0.0)})
    written = threading.Event()

    def write(writer: int) -> None:
        for _ in range(15 * ROUNDS):
            write_folder(tmp_path, {"writer": writer}, {"a": torch.full((500,), float(writer))})
        written.set()

    def read() -> int:
        reads = 0
        while not written.is_set():
            index, tensors = read_folder(tmp_path)
            assert bool((tensors["a"] == index["writer"]).all())
            reads += 1
        return reads

    results = outcomes([lambda: write(1), lambda: write(2), read])
    assert results[:2] == [None, None], results
    assert isinstance(results[2], int) and results[2] > 0, results


def test_edit_in_place_waits_for_the_lock_and_then_says_who_holds_it(
    edits_cli: EditsCommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits_cli.edit("GRACE", "edits")
    monkeypatch.setattr(edits_folder, "_WAIT_SECONDS", 0.1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_edits(edits_cli.folder / "edits"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        words = ("--prompt", "the river is", "--target", "blue", "--out", edits_cli.folder / "edits")
        hparams = ("--hparams", edits_cli.hparams["GRACE"])
        error = edits_cli.error_of("edit", *hparams, *words, "--edits", edits_cli.folder / "edits")
    finally:
        done.set()
        holder.join()
    assert "another process is changing these edits" in error
    assert len(edits_cli.records("edits")) == 1


def test_edit_does_not_replace_edits_that_appeared_meanwhile(
    edits_cli: EditsCommandLine, edits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original = edits_cli.folder / "out", edit._edit_batches

    def edit_while_another_process_writes(*arguments: Any) -> Any:
        shutil.copytree(edits, out, dirs_exist_ok=True)
        return original(*arguments)

    monkeypatch.setattr(edit, "_edit_batches", edit_while_another_process_writes)
    words = ("--prompt", "the river is", "--target", "blue", "--out", out)
    code, _, err = edits_cli.run("edit", "--hparams", edits_cli.hparams["GRACE"], *words)
    assert code == 1
    assert f"holds other edits ({INDEX}, " in err
    assert (out / INDEX).read_bytes() == (edits / INDEX).read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the writers")
@pytest.mark.parametrize(("races", "edit_races"), default_cases([(8, 0), (500, 20)], (8, 0)), ids=["some", "all"])
def test_two_processes_that_write_at_once_lose_and_destroy_nothing(races: int, edit_races: int, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.support.writer_races", str(tmp_path), str(races), str(edit_races)]
    process = subprocess.run(words, capture_output=True, text=True, timeout=3600, check=False, env=env)
    assert process.returncode == 0, process.stderr[-4000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert sum(pair["races"] for pair in report.values()) == races
    assert [pair["wrong"] for pair in report.values()] == [[]] * len(report), report
