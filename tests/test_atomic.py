"""Files that are written completely or not at all: their permissions, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong import atomic
from easyedit_lifelong.atomic import (
    append_durably,
    atomic_file,
    atomic_folder,
    delete_leftovers,
    write_text_atomically,
)
from easyedit_lifelong.snapshots import Snapshots


@pytest.fixture
def group_umask() -> Iterator[None]:
    """New files can be read by their group, not by others."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write_tensors(folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "a.safetensors")


class OneTensor:
    def save(self, model: object, folder: Path) -> None:
        write_tensors(folder)

    def load(self, *_: object) -> None:
        raise NotImplementedError


@pytest.mark.usefixtures("group_umask")
def test_files_have_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as temporary:
        save_file({"a": torch.zeros(2)}, temporary)
    with atomic_folder(tmp_path / "folder") as work:
        (work / "inner").mkdir()
        write_tensors(work / "inner")
    Snapshots(OneTensor()).save(None, tmp_path / "state", ["a"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert {mode_of(path) for path in files} == {0o640}
    assert {mode_of(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o750}


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # as the system raises it: without a name

    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught, atomic_file(path):
            fill()
        assert caught.value.filename == str(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match="No space left") as caught:
            append_durably(path, b"line\n")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught:
        write_text_atomically(tmp_path / "missing" / "file.json", "")
    assert caught.value.filename == str(tmp_path / "missing" / "file.json")


def test_an_error_in_a_folder_names_the_folder_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, atomic_folder(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "new")
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "new") as temporary:
        (temporary / "missing" / "file").touch()
    assert caught.value.filename == str(tmp_path / "new" / "missing" / "file")
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_ended_processes_are_deleted(tmp_path: Path) -> None:
    """A process of this machine that ended, a running one, and another machine's: one new file, one old."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "ended": f".writing-{atomic._HOST}-{ended.pid}-12345678.json",
        "running": f".writing-{atomic._HOST}-{os.getpid()}-12345678.json",
        "elsewhere": f".writing-00000000-{ended.pid}-12345678",
        "elsewhere, old": f".writing-00000000-{ended.pid}-87654321",
    }
    for name in names.values():
        (tmp_path / name).write_text("")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / names["elsewhere, old"], (two_days_ago, two_days_ago))
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names["running"], names["elsewhere"]}
