"""``export``, ``push`` and ``pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.edits_command_line import PROMPT, TARGET, EditsDesk
from tests.support.local_hub import REPO


@pytest.fixture
def desk(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> EditsDesk:
    monkeypatch.setenv("COLUMNS", "100")
    return EditsDesk(tmp_path, checkpoint, capsys)


def test_exported(desk: EditsDesk) -> None:
    desk.edit("CoachHook", "edits")
    out = desk.done("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert "(CoachHook 1)" in out
    assert "Lost: CoachHook's hook layers" in out
    loaded = AutoModelForCausalLM.from_pretrained(desk.folder / "model")
    state = coachhook_editor(desk.model("edits")[0]).state
    base = desk.model()[0]
    for path in state.paths:
        delta = state.delta(path)
        assert delta is not None
        assert torch.equal(loaded.get_submodule(path).weight, base.get_submodule(path).weight + delta)
    told = desk.refused("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert "nothing will be overwritten" in told


def test_a_codebook_is_not_exported(desk: EditsDesk) -> None:
    desk.edit("GRACE", "edits")
    told = desk.refused("export", "--edits", desk.folder / "edits", "--out", desk.folder / "model")
    assert told.startswith("GRACE's edits can't be put into plain weights")


def test_pushed_pulled_and_used_from_there(desk: EditsDesk, hub: Any) -> None:
    desk.edit("GRACE", "edits")
    out = desk.done("push", desk.folder / "edits", REPO)
    assert f"Pushed: {hub.url}/{REPO}/commit/" in out
    assert hub.repositories[REPO].private
    out = desk.done("pull", REPO, "--out", desk.folder / "pulled")
    assert f"1 edit of {desk.checkpoint}, checked" in out
    assert (desk.folder / "pulled" / INDEX).read_bytes() == (desk.folder / "edits" / INDEX).read_bytes()
    ask = ["--prompt", PROMPT, "--max-new-tokens", 1]
    assert desk.done("generate", "--edits", f"hub:{REPO}", *ask).split()[-1] == TARGET
    desk.done("push", desk.folder / "edits", "owner/open", "--public", "--revision", "two", "--message", "hello")
    assert not hub.repositories["owner/open"].private
    assert hub.repositories["owner/open"].messages[-1] == "hello"
    desk.done("pull", "owner/open", "--revision", "two", "--out", desk.folder / "two")
    assert "holds no saved edits" in desk.refused("pull", "owner/open", "--out", desk.folder / "three")
    assert "holds no saved edits" in desk.refused("generate", "--edits", "hub:owner/open", *ask)
