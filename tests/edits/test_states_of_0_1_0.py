"""State folders of version 0.1.0: damaged ones are refused and change no model, intact ones can be inspected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from easyedit_lifelong import inspect_edits, load_edits, rollback_folder
from easyedit_lifelong.edits.step_states import read_step_states
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.methods.shared.editors import carries_edits
from tests.fixtures import runs_0_1_0 as version_0_1_0

RUNS = version_0_1_0.FOLDER / "runs"
Damage = Callable[[Path], None]


def copy_of_state(method: str, folder: Path) -> Path:
    return Path(shutil.copytree(RUNS / method / "whole" / "state", folder / "state"))


def change_index(name: str, **values: Any) -> Damage:
    def damage(state: Path) -> None:
        index = {**json.loads((state / name).read_text()), **values}
        (state / name).write_text(json.dumps({key: value for key, value in index.items() if value is not None}))

    return damage


def flip_bit(name: str) -> Damage:
    def damage(state: Path) -> None:
        (path,) = sorted(state.glob(name))[:1]
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)

    return damage


def replace_file(name: str, content: bytes | None) -> Damage:
    def damage(state: Path) -> None:
        (path,) = sorted(state.glob(name))[:1]
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    return damage


def replace_tensors(name: str) -> Damage:
    def damage(state: Path) -> None:
        (path,) = sorted(state.glob(name))[:1]
        save_file({"x": torch.zeros(1)}, path)

    return damage


GRACE_DAMAGE: dict[str, tuple[Damage, str]] = {
    "no json": (replace_file("grace.json", b"{"), "grace.json: isn't the index of GRACE edits"),
    "another method's": (change_index("grace.json", method="CoachHook"), "grace.json: isn't the index of GRACE edits"),
    "newer": (
        change_index("grace.json", format_version=2),
        "has format version 2; this package knows versions up to 1",
    ),
    "something missing": (
        change_index("grace.json", settings=None),
        "grace.json: the index of GRACE edits is incomplete",
    ),
    "another model": (change_index("grace.json", fingerprint="0" * 64), "the fingerprints differ"),
    "a gap": (replace_file("edit-000002*", None), "edit-000002.safetensors: can't be read"),
    "cut off": (replace_file("edit-000002*", b"\x10"), "edit-000002.safetensors: can't be read"),
    "a flipped bit": (flip_bit("edit-000002*"), "edit-000002.safetensors: has been changed, or doesn't follow"),
    "a foreign file": (replace_tensors("edit-000001*"), "edit-000001.safetensors: can't be read"),
}
SUBJECT_DAMAGE: dict[str, tuple[Damage, str]] = {
    "other gates": (change_index("grace.json", gate_size=47), "edit-000001.safetensors: has been changed"),
}
COACHHOOK_DAMAGE: dict[str, tuple[Damage, str]] = {
    "no json": (replace_file("coachhook.json", b"["), "coachhook.json: isn't the index of CoachHook edits"),
    "no templates": (
        change_index("coachhook.json", templates=None),
        "coachhook.json: the index of CoachHook edits is incomplete",
    ),
    "batches of another kind": (
        change_index("coachhook.json", batches=["x"]),
        "coachhook.json: the index of CoachHook edits is incomplete",
    ),
    "another model": (change_index("coachhook.json", fingerprint="0" * 64), "the fingerprints differ"),
    "a file gone": (replace_file("batch-*", None), ".safetensors: can't be read"),
    "a file cut off": (replace_file("batch-*", b"\x10"), ".safetensors: can't be read"),
    "a foreign file": (replace_tensors("batch-*"), "CoachHook's edits are incomplete or damaged"),
}
CASES = [
    pytest.param(method, *case, id=f"{method}, {name}")
    for method, table in (("GRACE", GRACE_DAMAGE), ("GRACE-subject", SUBJECT_DAMAGE), ("CoachHook", COACHHOOK_DAMAGE))
    for name, case in table.items()
]


@pytest.mark.parametrize(("method", "damage", "message"), CASES)
def test_a_damaged_state_is_refused_with_its_path(tmp_path: Path, method: str, damage: Damage, message: str) -> None:
    state = copy_of_state(method, tmp_path)
    damage(state)
    model = version_0_1_0.model()
    with pytest.raises(RunError) as caught:
        load_edits(model, state)
    assert message in str(caught.value)
    assert str(state) in str(caught.value)
    assert not carries_edits(model)


@pytest.mark.parametrize("method", sorted(path.name for path in RUNS.iterdir()))
def test_a_state_can_be_inspected_like_a_folder_of_edits(tmp_path: Path, method: str) -> None:
    state = RUNS / method / "whole" / "state"
    found = inspect_edits(state)
    assert found.format_version == 0
    assert found.count == len(found.parts[0].edits) == sum(len(edits) for edits, _ in read_step_states(state))
    assert found.parts[0].layers


@pytest.mark.parametrize("method", ["GRACE", "CoachHook"])
def test_a_state_is_never_overwritten_with_other_edits(tmp_path: Path, method: str) -> None:
    state = copy_of_state(method, tmp_path)
    before = {path.name: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    first = read_step_states(state)[0][0][0]
    with pytest.raises(RunError, match="is the state of a run"):
        rollback_folder(state, **({"cases": [first["case_id"]]} if method == "GRACE" else {"batch": 1}))
    assert {path.name: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before
