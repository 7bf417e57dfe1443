"""``changes``: the command writes the changes that saved edits make to states, and a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.support.command_line import HPARAMS, call


def test_changes_of_saved_edits_are_written_and_shown(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hparams = tmp_path / "grace.yaml"
    hparams.write_text(yaml.safe_dump({**HPARAMS, "model_name": str(checkpoint)}))
    edits, out = tmp_path / "edits", tmp_path / "out"
    edit = ["edit", "--hparams", hparams, "--prompt", "the king is", "--target", "sea", "--out", edits]
    assert call(capsys, *edit)[0] == 0
    words = ["changes", "--edits", edits, "--prompt", "the king is", "--prompt", "[/a] the moon is", "--out", out]
    code, output, error = call(capsys, *words)
    assert code == 0, error
    assert "[/a] the moon is" in output
    index = json.loads((out / "changes.json").read_text())
    edited, neighbour = index["prompts"]
    assert edited["tokens"] == ["the", "king", "is"]
    assert edited["next_token"] > 0.1 > neighbour["next_token"] == 0
    arrays = load_file(out / "changes.safetensors")
    assert arrays["1.mlp"][-1, 2] > 0
    assert not arrays["2.state"].any()
    page = (out / "report.html").read_text()
    assert page.count('role="img"') == 6
    assert (out / "changes-1-state.png").is_file()
    code, _, error = call(capsys, *words)
    assert code == 1
    assert "holds another study" in error
