"""A script that lets two processes write to one edits folder at once, and reports what was lost or destroyed.

``python -m tests.support.writer_races FOLDER RACES EDIT_RACES`` prints JSON: for each pair of writers, how many races
were run, and what was wrong. ``EDIT_RACES`` of the races are between calls of the command ``edit``, which take longer.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from easyedit_lifelong import load_edits, merge_edits, save_edits
from easyedit_lifelong.commands.main import main as call_command
from easyedit_lifelong.edits.folder_parts import read_edits
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.errors import RunError
from tests.support.edits_command_line import GRACE, OTHER, TARGET
from tests.support.grace_edits import EDITS, edited
from tests.support.tiny_models import build_model, build_tokenizer

CASES = [record["case_id"] for record in EDITS]
WRITTEN, REFUSED, FAILED = 0, 1, 2
"""What a writer's process ends with."""


def at_once(writers: Sequence[Callable[[], Any]]) -> list[int]:
    """Call writers at once, each in a forked process; return how each process ended."""
    start_read, start_write = os.pipe()
    children = []
    for write in writers:
        child = os.fork()
        if child == 0:
            code = FAILED
            try:
                os.close(start_write)
                os.read(start_read, 1)  # ends when the parent closes its end
                code = write() or WRITTEN
            except RunError:
                code = REFUSED
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    os.close(start_read)
    os.close(start_write)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def cases_in(folder: Path) -> list[str]:
    """Return the cases of the edits in a folder, which must be complete."""
    return [record["case_id"] for _, part in read_edits(folder).parts for record in part.edits]


def without(*cases: str) -> list[str]:
    return [case for case in CASES if case not in cases]


class Races:
    """Races between two writers of one edits folder.

    Args:
        home: a folder for them.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.folder = home, home / "raced"
        self.all, self.few = edited()[0], build_model("llama")
        save_edits(self.all, home / "all")
        rollback_folder(home / "all", cases=CASES[2:], out=home / "few")
        load_edits(self.few, home / "few")

    def run(self, name: str, number: int) -> str:
        """Run a race; return what is wrong, or an empty text."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            problem: str = getattr(self, f"_{name}")(number)
        except RunError as error:
            return f"destroyed: {error}"
        left = [path.name for path in self.folder.iterdir() if path.name.startswith(".writing")]
        return problem or (f"left: {left}" if left else "")

    def _two_rollbacks(self, number: int) -> str:
        """Both edits are gone, whichever process was first."""
        shutil.copytree(self.home / "all", self.folder)
        cases = CASES[number % 3], CASES[3 + number % 3]
        ends = at_once([lambda case=case: self._remove(case) for case in cases])
        return _compare(ends, [WRITTEN, WRITTEN], cases_in(self.folder), [without(*cases)])

    def _two_saves(self, _: int) -> str:
        """The folder has the edits of one model."""
        ends = at_once([lambda: self._save(self.all), lambda: self._save(self.few)])
        return _compare(ends, [WRITTEN, WRITTEN], cases_in(self.folder), [CASES, CASES[:2]])

    def _save_and_rollback(self, _: int) -> str:
        """The rollback takes its edit out of what was there, or of what was saved meanwhile."""
        shutil.copytree(self.home / "few", self.folder)
        ends = at_once([lambda: self._save(self.all), lambda: self._remove(CASES[0])])
        if ends[1] == REFUSED:  # the edits were replaced between its reading and its writing
            ends[1] = WRITTEN
        return _compare(ends, [WRITTEN, WRITTEN], cases_in(self.folder), [CASES, without(CASES[0])])

    def _merge_and_rollback(self, _: int) -> str:
        """One of two writers to a new folder is refused."""

        def merge() -> None:
            merge_edits([self.home / "few", self.home / "all"], self.folder)

        ends = at_once([merge, lambda: self._remove(CASES[0], self.home / "all")])
        expected = [CASES, without(CASES[0])][ends.index(WRITTEN)] if WRITTEN in ends else []
        found = cases_in(self.folder)
        return _compare(sorted(ends), [WRITTEN, REFUSED], sorted(found), [sorted(expected)])

    def _two_edits(self, _: int) -> str:
        """Both edits are there."""
        shutil.copytree(self.home / "one", self.folder)
        hparams, folder = str(self.home / "grace.yaml"), str(self.folder)
        prompts = ["moon made from", "language spoken in Peru"]
        calls = [
            ["edit", "--hparams", hparams, "--prompt", prompt, "--target", TARGET, "--edits", folder, "--out", folder]
            for prompt in prompts
        ]
        ends = at_once([lambda call=call: call_command(call) for call in calls])
        found = [record["prompt"] for _, part in read_edits(self.folder).parts for record in part.edits]
        expected = [OTHER, *(prompt for prompt, end in zip(prompts, ends, strict=True) if end == WRITTEN)]
        return _compare([min(ends)], [WRITTEN], sorted(found), [sorted(expected)])

    def prepare_edits(self) -> None:
        """Write what the races of the command ``edit`` need."""
        checkpoint = self.home / "checkpoint"
        build_model("llama").save_pretrained(checkpoint)
        build_tokenizer().save_pretrained(checkpoint)
        values = {**GRACE, "model_name": str(checkpoint), "device": "cpu", "n_iter": 5}
        (self.home / "grace.yaml").write_text(yaml.safe_dump(values))
        words = ["--prompt", OTHER, "--target", "Rome", "--out", str(self.home / "one")]
        assert call_command(["edit", "--hparams", str(self.home / "grace.yaml"), *words]) == 0

    def _remove(self, case: str, source: Path | None = None) -> None:
        rollback_folder(source or self.folder, cases=[case], out=None if source is None else self.folder)

    def _save(self, model: Any) -> None:
        save_edits(model, self.folder)


def _compare(ends: Sequence[int], expected_ends: Sequence[int], found: Any, allowed: Sequence[Any]) -> str:
    """Return what differs from what a race may end with."""
    if list(ends) != list(expected_ends):
        return f"ended with {list(ends)}"
    return "" if found in allowed else f"lost: {found}"


def main(home: Path, races: int, edit_races: int) -> None:
    """Run the races, and print the report."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    contest = Races(home)
    names = ["two_rollbacks", "two_saves", "save_and_rollback", "merge_and_rollback"]
    plan = [names[number % len(names)] for number in range(races - edit_races)]
    if edit_races:
        contest.prepare_edits()
        plan += ["two_edits"] * edit_races
    report = {name: {"races": plan.count(name), "wrong": list[str]()} for name in dict.fromkeys(plan)}
    for number, name in enumerate(plan):
        if problem := contest.run(name, number):
            report[name]["wrong"].append(problem)  # type: ignore[attr-defined]
    sys.stdout.write("\n" + json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
