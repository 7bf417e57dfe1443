"""Snapshots of a run's state: the one that the journal names exists at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.snapshots import Snapshots


class LetterListStore:
    """A store for a model that is a list of letters; its state is two files."""

    def __init__(self) -> None:
        self.interrupted = False

    def save(self, model: list[str], folder: Path) -> None:
        (folder / "first").write_text("".join(model))
        if self.interrupted:
            raise KeyboardInterrupt
        (folder / "deep").mkdir()
        (folder / "deep" / "second").write_text("".join(model))

    def load(self, model: list[str], tok: Any, hparams: Any, folder: Path) -> None:
        assert (folder / "first").read_text() == (folder / "deep" / "second").read_text()
        model[:] = (folder / "first").read_text()


def _loaded(snapshots: Snapshots, folder: Path, *case_ids: int) -> str:
    model: list[str] = []
    snapshots.load(model, None, None, folder, list(case_ids) or None)
    return "".join(model)


def test_the_previous_snapshot_is_kept_until_the_next_is_complete(tmp_path: Path) -> None:
    store = LetterListStore()
    snapshots, folder = Snapshots(store), tmp_path / "state"
    snapshots.save(["a"], folder, [1])
    store.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        snapshots.save(["a", "b"], folder, [1, 2])
    assert _loaded(snapshots, folder) == _loaded(snapshots, folder, 1) == "a"
    store.interrupted = False
    snapshots.save(["a", "b"], folder, [1, 2])
    assert _loaded(snapshots, folder, 1) == "a", "the first snapshot is gone, but the journal may still name it"
    snapshots.save(["a", "c"], folder, [1, 2])  # the second edit is repeated, with another result
    assert (_loaded(snapshots, folder, 1), _loaded(snapshots, folder)) == ("a", "ac")
    snapshots.save(["a", "c", "d", "e"], folder, [1, 2, 3, 4])
    assert sorted(path.name for path in folder.iterdir()) == ["after-000002", "after-000004"]


def test_a_missing_snapshot_is_refused_with_its_name(tmp_path: Path) -> None:
    snapshots = Snapshots(LetterListStore())
    snapshots.save(["a"], tmp_path, [1])
    for case_ids in ([1, 2], [1, 2, 3]):
        with pytest.raises(RunError, match=f"after-{len(case_ids):06d}: there is no snapshot of the edits"):
            snapshots.load([], None, None, tmp_path, case_ids)
    with pytest.raises(RunError, match="there is no snapshot"):
        snapshots.load([], None, None, tmp_path / "nothing")


class FailingStore:
    """A store that fails with a given error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save(self, model: Any, folder: Path) -> None:
        raise self.error

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        raise self.error


def test_a_full_disk_reported_by_safetensors_is_refused(tmp_path: Path) -> None:
    """SafetensorError is no OSError."""
    snapshots = Snapshots(LetterListStore())
    snapshots.save(["a"], tmp_path, [1])
    with pytest.raises(RunError, match=r"after-000002: can't be written: No space left"):
        Snapshots(FailingStore(SafetensorError("No space left on device"))).save(["a", "b"], tmp_path, [1, 2])
    assert _loaded(snapshots, tmp_path, 1) == "a", "the earlier snapshot is gone"


@pytest.mark.parametrize("error", [SafetensorError("HeaderTooLarge"), OSError("Input/output error"), ValueError("no")])
def test_a_damaged_snapshot_is_refused_with_its_path(tmp_path: Path, error: Exception) -> None:
    Snapshots(LetterListStore()).save(["a"], tmp_path, [1])
    with pytest.raises(RunError, match=rf"after-000001: can't be read: {error}.*is damaged"):
        Snapshots(FailingStore(error)).load(None, None, None, tmp_path, [1])


def test_an_error_of_this_package_is_raised_unchanged(tmp_path: Path) -> None:
    Snapshots(LetterListStore()).save(["a"], tmp_path, [1])
    with pytest.raises(ModelError, match=r"^another model's$"):
        Snapshots(FailingStore(ModelError("another model's"))).load(None, None, None, tmp_path, [1])


def test_carries_is_the_methods_answer_and_otherwise_false() -> None:
    class StoreWithCarries(LetterListStore):
        def carries(self, model: list[str]) -> bool:
            return bool(model)

    assert not Snapshots(LetterListStore()).carries(["a"]), "a store without ``carries`` claims edits"
    assert Snapshots(StoreWithCarries()).carries(["a"])
    assert not Snapshots(StoreWithCarries()).carries([])


@pytest.mark.parametrize("name", ["first", "deep/second", "digests.json"])
def test_a_damaged_snapshot_is_refused_with_the_file(tmp_path: Path, name: str) -> None:
    """Both files stay equal, so that the store alone would not notice."""
    snapshots = Snapshots(LetterListStore())
    snapshots.save(["a"], tmp_path, [1])
    folder = tmp_path / "after-000001"
    if name == "digests.json":
        (folder / name).write_text("[]")
    else:
        (folder / name).write_text("b")
    with pytest.raises(RunError, match=f"{name} isn't what was written"):
        snapshots.load([], None, None, tmp_path, [1])


def test_a_snapshot_of_an_early_release_has_no_digests(tmp_path: Path) -> None:
    snapshots = Snapshots(LetterListStore())
    snapshots.save(["a"], tmp_path, [1])
    (tmp_path / "after-000001" / "digests.json").unlink()
    assert _loaded(snapshots, tmp_path, 1) == "a"
