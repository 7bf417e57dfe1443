"""``export``, ``push`` and ``pull``."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from tests.support.edits_command_line import PROMPT, TARGET, EditsCommandLine
from tests.support.local_hub import REPO


def test_export_adds_the_updates_to_the_weights(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("CoachHook", "edits")
    out = edits_cli.output_of("export", "--edits", edits_cli.folder / "edits", "--out", edits_cli.folder / "model")
    assert "(CoachHook 1)" in out
    assert "Lost: CoachHook's hook layers" in out
    loaded = AutoModelForCausalLM.from_pretrained(edits_cli.folder / "model")
    state = coachhook_editor(edits_cli.model("edits")[0]).state
    base = edits_cli.model()[0]
    for path in state.paths:
        delta = state.delta(path)
        assert delta is not None
        assert torch.equal(loaded.get_submodule(path).weight, base.get_submodule(path).weight + delta)
    message = edits_cli.error_of("export", "--edits", edits_cli.folder / "edits", "--out", edits_cli.folder / "model")
    assert "nothing will be overwritten" in message


def test_export_refuses_a_codebook(edits_cli: EditsCommandLine) -> None:
    edits_cli.edit("GRACE", "edits")
    message = edits_cli.error_of("export", "--edits", edits_cli.folder / "edits", "--out", edits_cli.folder / "model")
    assert message.startswith("GRACE's edits can't be put into plain weights")


def test_edits_are_pushed_pulled_and_used_from_the_hub(edits_cli: EditsCommandLine, hub: Any) -> None:
    edits_cli.edit("GRACE", "edits")
    out = edits_cli.output_of("push", edits_cli.folder / "edits", REPO)
    assert f"Pushed: {hub.url}/{REPO}/commit/" in out
    assert hub.repositories[REPO].private
    out = edits_cli.output_of("pull", REPO, "--out", edits_cli.folder / "pulled")
    assert f"1 edit of {edits_cli.checkpoint}, checked" in out
    assert (edits_cli.folder / "pulled" / INDEX).read_bytes() == (edits_cli.folder / "edits" / INDEX).read_bytes()
    prompt = ["--prompt", PROMPT, "--max-new-tokens", 1]
    assert edits_cli.output_of("generate", "--edits", f"hub:{REPO}", *prompt).split()[-1] == TARGET
    edits_cli.output_of(
        "push", edits_cli.folder / "edits", "owner/open", "--public", "--revision", "two", "--message", "hello"
    )
    assert not hub.repositories["owner/open"].private
    assert hub.repositories["owner/open"].messages[-1] == "hello"
    edits_cli.output_of("pull", "owner/open", "--revision", "two", "--out", edits_cli.folder / "two")
    assert "holds no saved edits" in edits_cli.error_of("pull", "owner/open", "--out", edits_cli.folder / "three")
    assert "holds no saved edits" in edits_cli.error_of("generate", "--edits", "hub:owner/open", *prompt)
