"""State written whole: the snapshot that a journal knows is there at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from easyedit_lifelong.errors import ModelError, RunError
from easyedit_lifelong.snapshots import Snapshots


class Letters:
    """The model is a list of letters; its state is two files."""

    def __init__(self) -> None:
        self.dies = False

    def save(self, model: list[str], folder: Path) -> None:
        (folder / "first").write_text("".join(model))
        if self.dies:
            raise KeyboardInterrupt
        (folder / "deep").mkdir()
        (folder / "deep" / "second").write_text("".join(model))

    def load(self, model: list[str], tok: Any, hparams: Any, folder: Path) -> None:
        assert (folder / "first").read_text() == (folder / "deep" / "second").read_text()
        model[:] = (folder / "first").read_text()


def _loaded(keeper: Snapshots, folder: Path, *case_ids: int) -> str:
    model: list[str] = []
    keeper.load(model, None, None, folder, list(case_ids) or None)
    return "".join(model)


def test_the_one_before_stays_until_the_next(tmp_path: Path) -> None:
    letters = Letters()
    keeper, folder = Snapshots(letters), tmp_path / "state"
    keeper.save(["a"], folder, [1])
    letters.dies = True
    with pytest.raises(KeyboardInterrupt):
        keeper.save(["a", "b"], folder, [1, 2])
    assert _loaded(keeper, folder) == _loaded(keeper, folder, 1) == "a"
    letters.dies = False
    keeper.save(["a", "b"], folder, [1, 2])
    assert _loaded(keeper, folder, 1) == "a", "the journal may not know the second yet"
    keeper.save(["a", "c"], folder, [1, 2])  # so it was made again
    assert (_loaded(keeper, folder, 1), _loaded(keeper, folder)) == ("a", "ac")
    keeper.save(["a", "c", "d", "e"], folder, [1, 2, 3, 4])
    assert sorted(path.name for path in folder.iterdir()) == ["after-000002", "after-000004"]


def test_one_that_is_not_there(tmp_path: Path) -> None:
    keeper = Snapshots(Letters())
    keeper.save(["a"], tmp_path, [1])
    for case_ids in ([1, 2], [1, 2, 3]):
        with pytest.raises(RunError, match=f"after-{len(case_ids):06d}: there is no snapshot of the edits"):
            keeper.load([], None, None, tmp_path, case_ids)
    with pytest.raises(RunError, match="there is no snapshot"):
        keeper.load([], None, None, tmp_path / "nothing")


class Spoilt:
    """Fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def save(self, model: Any, folder: Path) -> None:
        raise self.error

    def load(self, model: Any, tok: Any, hparams: Any, folder: Path) -> None:
        raise self.error


def test_a_full_disk_as_safetensors_says_it(tmp_path: Path) -> None:
    """Its error is no OSError."""
    keeper = Snapshots(Letters())
    keeper.save(["a"], tmp_path, [1])
    with pytest.raises(RunError, match=r"after-000002: can't be written: No space left"):
        Snapshots(Spoilt(SafetensorError("No space left on device"))).save(["a", "b"], tmp_path, [1, 2])
    assert _loaded(keeper, tmp_path, 1) == "a", "what was there stays"


@pytest.mark.parametrize("error", [SafetensorError("HeaderTooLarge"), OSError("Input/output error"), ValueError("no")])
def test_a_damaged_file(tmp_path: Path, error: Exception) -> None:
    Snapshots(Letters()).save(["a"], tmp_path, [1])
    with pytest.raises(RunError, match=rf"after-000001: can't be read: {error}.*is damaged"):
        Snapshots(Spoilt(error)).load(None, None, None, tmp_path, [1])


def test_what_was_said_on_purpose_stays_as_it_is(tmp_path: Path) -> None:
    Snapshots(Letters()).save(["a"], tmp_path, [1])
    with pytest.raises(ModelError, match=r"^another model's$"):
        Snapshots(Spoilt(ModelError("another model's"))).load(None, None, None, tmp_path, [1])


def test_what_a_model_carries() -> None:
    class Telling(Letters):
        def carries(self, model: list[str]) -> bool:
            return bool(model)

    assert not Snapshots(Letters()).carries(["a"]), "who can't tell says no"
    assert Snapshots(Telling()).carries(["a"])
    assert not Snapshots(Telling()).carries([])
