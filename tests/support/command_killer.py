"""A script that kills every command that writes, calls it again, and reports how its files differ.

``python -m tests.support.command_killer FOLDER KILLS`` prints JSON: for each command, how many calls were killed, and
which files differ from those of a call that was not killed. Calls are killed with ``SIGKILL`` at random calls that
write to the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from easyedit_lifelong.commands.main import main as call_command
from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.folder_lock import LOCK
from tests.support import local_hub
from tests.support.commands_that_write import COMMANDS, Command, prepare, replace_slow_parts, words_of
from tests.support.forks import exit_code_in_fork
from tests.support.run_killer import Points

CHANGING = re.compile("time|saved|seconds|memory|finished|started|digest|created|machine|host|pid|versions|command")
"""Names of entries that differ between two equal calls."""


def call(command: Command, folder: Path, at: int | None = None) -> int | None:
    """Call a command in a folder, and kill it at a call that writes; return its exit code, or None if it was killed."""

    def run() -> int:
        os.chdir(folder)
        replace_slow_parts(folder)
        points = Points(at)
        points.watch("GRACE")
        resume = command.resumes and (Path(command.out) / command.resumes).exists()
        code = call_command([*words_of(command.words), *(["--resume"] if resume else [])])
        Path("points").write_text(str(points.count))
        return code

    return exit_code_in_fork(run, quiet=True)


def is_done(command: Command, folder: Path) -> bool:
    """Whether a command that would do its work twice has done it."""
    if command.edits is None:
        return False
    index = json.loads((folder / command.out / INDEX).read_text())
    return sum(len(part["edits"]) for part in index["parts"]) == command.edits


def observed(path: Path) -> dict[str, Any]:
    """Return the content of a command's files, without what differs between two equal calls."""
    assert not path.is_file(), "a command of the table writes into a folder"
    files = [file for file in path.rglob("*") if file.is_file() and file.name != LOCK]
    # Tensors that are not yet renamed are those of the index: the file that they replace is not read any more.
    return {str(file.relative_to(path)).removesuffix(".new"): _content(file) for file in sorted(files)}


def _content(file: Path) -> Any:
    if file.suffix == ".json":
        return _lasting(json.loads(file.read_text()))
    if file.suffix == ".jsonl":
        return [_lasting(json.loads(line)) for line in file.read_text().splitlines()]
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name: arrays[name].tolist() for name in arrays.files}
    if ".safetensors" in file.suffixes:
        with safe_open(file, "pt") as tensors:
            digests = {name: _digest(tensors.get_tensor(name)) for name in sorted(tensors.keys())}
            return [digests, _lasting(json.loads((tensors.metadata() or {}).get("step", "{}")))]
    if file.suffix == ".html":
        return file.read_text().rstrip().endswith("</html>")
    if file.suffix in (".py", ".toml"):
        return file.read_text()
    return file.stat().st_size > 0  # texts and figures of durations


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(entry) for name, entry in value.items() if not CHANGING.search(name)}
    return [_lasting(entry) for entry in value] if isinstance(value, list) else value


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def kill_and_compare(command: Command, start: Path, work: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill a command, call it again, and compare its files with those of a call that was not killed."""
    folder = work / "called"  # the same for all calls, since results can name it
    shutil.copytree(start, folder)
    code = call(command, folder)
    if code != 0:
        return {"kills": 0, "points": 0, "differing": [f"a call that was not killed ended with {code}"]}
    expected = observed(folder / command.out)
    points = int((folder / "points").read_text())
    killed, differing = 0, []
    for kill in range(kills):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        at = draw.randint(points * kill // kills + 1, max(points * kill // kills + 1, points * (kill + 1) // kills))
        killed += call(command, folder, at) is None
        if not is_done(command, folder):
            call(command, folder)  # a call that finds its work done can refuse
        found = observed(folder / command.out)
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if names:
            differing.append([at, names])
    shutil.rmtree(work)
    return {"kills": killed, "points": points, "differing": differing}


def main(folder: Path, kills: int, names: list[str]) -> None:
    """Kill each command so many times, and print the report."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    start, draw, report = folder / "start", random.Random(7), {}

    def make_inputs() -> int:
        prepare(start)
        return 0

    with local_hub.used(folder):
        assert exit_code_in_fork(make_inputs, quiet=True) == 0
        for number, name in enumerate(names or COMMANDS):
            report[name] = kill_and_compare(COMMANDS[name], start, folder / f"work-{number}", kills, draw)
            sys.stderr.write(f"{name}: {json.dumps(report[name])}\n")
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
