"""Damaged folders of edits: an error with the path or equal edits, never a traceback or a silently wrong model."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from easyedit_lifelong import atomic, load_edits, save_edits
from easyedit_lifelong.edits import edits_folder, folder_tensors
from easyedit_lifelong.edits.edits_folder import INDEX, TENSORS
from easyedit_lifelong.errors import LifelongError, RunError
from tests.support import subject_edits
from tests.support.coachhook_edits import attributes_and_hooks_of, equal_states
from tests.support.saved_edits import equal, grace, grace_and_coachhook, logits_of
from tests.support.tiny_models import build_model, state_of

Damage = Callable[[Path, random.Random], None]


def truncate(folder: Path, chance: random.Random) -> None:
    path = folder / chance.choice([INDEX, TENSORS])
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def flip(folder: Path, chance: random.Random, name: str, first: int | None = None) -> None:
    data = bytearray((folder / name).read_bytes())
    data[chance.randrange(min(first or len(data), len(data)))] ^= 1 << chance.randrange(8)
    (folder / name).write_bytes(data)


def flip_index(folder: Path, chance: random.Random) -> None:
    flip(folder, chance, INDEX)


def flip_header(folder: Path, chance: random.Random) -> None:
    flip(folder, chance, TENSORS, first=1000)


def flip_values(folder: Path, chance: random.Random) -> None:
    flip(folder, chance, TENSORS)


def reshape(folder: Path, chance: random.Random) -> None:
    tensors = load_file(folder / TENSORS)
    name = chance.choice(sorted(tensors))
    tensors[name] = chance.choice([tensors[name][:1], tensors[name].reshape(-1), torch.zeros(3), tensors[name].int()])
    save_file(tensors, folder / TENSORS)


def remove(folder: Path, chance: random.Random) -> None:
    (folder / chance.choice([INDEX, TENSORS])).unlink()


def swap(folder: Path, chance: random.Random) -> None:
    name = chance.choice([INDEX, TENSORS])
    shutil.copy(folder.parent / "others" / name, folder / name)


def insert(folder: Path, chance: random.Random) -> None:
    path = folder / chance.choice([INDEX, TENSORS])
    data = path.read_bytes()
    at = chance.randrange(len(data))
    path.write_bytes(data[:at] + chance.randbytes(chance.randrange(1, 20)) + data[at:])


DAMAGES = [truncate, flip_index, flip_header, flip_values, reshape, remove, swap, insert]
TIMES = 63  # of each damage: 504 in all


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[torch.Tensor]]:
    """Save edits of all methods in ``all`` and others in ``others``; return the home folder and the logits."""
    home = tmp_path_factory.mktemp("saved")
    model = build_model("llama")
    grace(model, "llama")
    save_edits(model, home / "others")
    model = build_model("llama")
    grace_and_coachhook(model, "llama")
    subject_edits.edit(model, "llama", "late", answer_layer="model.layers[3].mlp.down_proj")
    save_edits(model, home / "all")
    return home, logits_of(model)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_folder_is_refused_or_loads_equal_edits(
    saved: tuple[Path, list[torch.Tensor]], damage: Damage
) -> None:
    home, expected = saved
    model, folder, chance = build_model("llama"), home / "damaged", random.Random(damage.__name__)
    unedited, parts, messages = state_of(model), attributes_and_hooks_of(model), list[str]()
    for _ in range(TIMES):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(home / "all", folder)
        damage(folder, chance)
        try:
            rollback = load_edits(model, folder)
        except LifelongError as error:
            messages.append(str(error))
        else:
            assert equal(logits_of(model), expected), "the damaged folder loaded as other edits"
            rollback()
        assert equal_states(state_of(model), unedited)
        assert attributes_and_hooks_of(model) == parts
    assert all(str(folder) in message for message in messages)
    assert len(messages) >= TIMES // 2, (
        "most damages must be found; the rest are harmless, such as white space or a tensor that has that shape"
    )


def change_one_value(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one thing in it changed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {key: item for key, item in value.items() if key != name}
        return {**value, name: change_one_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [
            *value[:at],
            *([] if chance.random() < 0.3 else [change_one_value(value[at], chance)]),
            *value[at + 1 :],
        ]
    return chance.choice([None, -1, 10**9, 0.5, "x", [], {}, [None], True])


def test_a_changed_index_with_a_fitting_digest_is_refused_or_rolled_back(
    saved: tuple[Path, list[torch.Tensor]],
) -> None:
    """It may describe valid other edits; then loading them and rolling back must restore the model."""
    home, _ = saved
    model, folder, chance = build_model("llama"), home / "by-hand", random.Random(0)
    shutil.copytree(home / "all", folder, dirs_exist_ok=True)
    index = json.loads((home / "all" / INDEX).read_text())
    index.pop("digest")
    unedited, parts, messages = state_of(model), attributes_and_hooks_of(model), list[str]()
    for _ in range(300):
        changed = {**index, "parts": change_one_value(index["parts"], chance)}
        changed["digest"] = edits_folder._index_digest(changed)
        (folder / INDEX).write_text(json.dumps(changed))
        try:
            rollback = load_edits(model, folder)
        except LifelongError as error:
            messages.append(str(error))
        else:
            logits_of(model)
            rollback()
        assert equal_states(state_of(model), unedited)
        assert attributes_and_hooks_of(model) == parts
    assert all(str(folder) in message for message in messages)
    assert len(messages) > 100


def test_a_newer_format_asks_for_an_update(saved: tuple[Path, list[torch.Tensor]], tmp_path: Path) -> None:
    shutil.copytree(saved[0] / "all", tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**index, "format_version": 4}))
    with pytest.raises(RunError, match="Update easyedit_lifelong"):
        load_edits(build_model("llama"), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"format": 3}', "[" * 100_000, "\udcff"])
def test_a_file_that_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RunError, match="isn't the index"):
        load_edits(build_model("llama"), tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no saved edits"):
        load_edits(build_model("llama"), tmp_path / "nowhere")


_ONCE, _TWICE = [(step,) for step in range(8)], [(step, again) for step in (5, 6) for again in range(7)]


@pytest.mark.parametrize("steps", [*_ONCE, *_TWICE], ids=str)
def test_after_a_kill_while_saving_a_folder_holds_the_old_or_the_new_edits(
    saved: tuple[Path, list[torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...]
) -> None:
    home, _ = saved
    folder = tmp_path / "edits"
    shutil.copytree(home / "others", folder)
    models = {}
    for name in ("others", "all"):
        models[name] = build_model("llama")
        load_edits(models[name], home / name)
    calls_left = 0

    class Killed(BaseException):
        """An exception that the package catches nowhere."""

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            nonlocal calls_left
            if calls_left == 0:
                raise Killed
            calls_left -= 1
            return call(*args)

        return counted

    for name, calls_left in zip(("all", "others"), steps, strict=False):  # noqa: B007
        with monkeypatch.context() as patched:
            patched.setattr(atomic, "fsync_path", killing(atomic.fsync_path))
            patched.setattr(folder_tensors, "fsync_path", killing(folder_tensors.fsync_path))
            patched.setattr(folder_tensors.os, "replace", killing(folder_tensors.os.replace))
            with contextlib.suppress(Killed):
                save_edits(models[name], folder)
    loaded = build_model("llama")
    load_edits(loaded, folder)
    logits = logits_of(loaded)
    assert equal(logits, logits_of(models["others"])) or equal(logits, logits_of(models["all"]))
    save_edits(models["all"], folder)
    reloaded = build_model("llama")
    load_edits(reloaded, folder)
    assert equal(logits_of(reloaded), logits_of(models["all"]))
