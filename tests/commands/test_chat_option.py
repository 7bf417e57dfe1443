"""``--chat`` and ``--system``: edits and prompts in the chat template, the run's files, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from easyedit_lifelong import explain
from tests.support.chat_tokenizer import TEMPLATE
from tests.support.command_line import RunCommand, call
from tests.support.edits_command_line import PROMPT, TARGET, EditsCommandLine


def chat_checkpoint(cli: EditsCommandLine) -> Path:
    """Save a copy of the command line's model with a chat template; return its folder."""
    folder = cli.changed_checkpoint("chat")
    add_template(folder)
    return folder


def add_template(folder: Path) -> None:
    """Give a checkpoint a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def asked(cli: EditsCommandLine, checkpoint: Path, *options: Any) -> dict[str, Any]:
    """Return the answer that ``generate`` gives the edited prompt."""
    words = ["--edits", cli.folder / "edits", "--model", checkpoint, "--prompt", PROMPT, "--json", *options]
    (row,) = json.loads(cli.output_of("generate", *words))
    return row


def test_an_edit_in_chat_form_is_saved_and_answers_in_it(
    edits_cli: EditsCommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = chat_checkpoint(edits_cli)
    out = edits_cli.edit("GRACE", "edits", "--chat", "--system", "snow", "--model", checkpoint)
    shown, command = out.rsplit("Ask the edited model:", 1)
    assert " ".join(command.split()).endswith(" --chat --system snow"), "the command asks in the form of the edits"
    assert "snow" not in shown, "the prompt is shown without the template"
    (record,) = edits_cli.records("edits")
    assert record["question"] == PROMPT
    assert record["prompt"] == f"<s> snow . where {PROMPT} sea born "
    shown = " ".join(edits_cli.output_of("inspect", edits_cli.folder / "edits").split())
    assert f"{PROMPT} (in a chat) → {TARGET}" in shown
    row = asked(edits_cli, checkpoint, "--chat", "--system", "snow")
    assert (row["prompt"], row["edited"].split()[0]) == (PROMPT, TARGET)
    assert caplog.messages == []
    asked(edits_cli, checkpoint, "--chat")
    asked(edits_cli, checkpoint)
    other_system, plain = caplog.messages
    assert other_system == "Edits made with another system message or after earlier turns: 1 of 1; see --system"
    assert plain == "Edits made in chat form (1 of 1) may not answer plain prompts; --chat asks in that form"


def test_plain_edits_may_not_answer_in_a_chat(edits_cli: EditsCommandLine, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = chat_checkpoint(edits_cli)
    edits_cli.edit("GRACE", "edits", "--model", checkpoint)
    asked(edits_cli, checkpoint, "--chat")
    assert caplog.messages == ["Edits made on plain prompts (1 of 1) may not answer in a chat"]


def test_an_answer_in_a_chat_is_explained(edits_cli: EditsCommandLine) -> None:
    checkpoint = chat_checkpoint(edits_cli)
    edits_cli.edit("GRACE", "edits", "--chat", "--model", checkpoint)
    edits_cli.checkpoint = checkpoint
    model, tokenizer = edits_cli.model("edits")
    assert explain(model, tokenizer, PROMPT, TARGET, chat=True).grace[0].answered_by == 0
    assert explain(model, tokenizer, PROMPT).grace[0].answered_by is None


def test_what_cannot_chat_is_refused(edits_cli: EditsCommandLine) -> None:
    words = ["--hparams", edits_cli.hparams["GRACE"], "--prompt", PROMPT, "--target", TARGET]
    words += ["--out", edits_cli.folder / "edits"]
    assert "the tokenizer has no chat template" in edits_cli.error_of("edit", *words, "--chat")
    assert "also give --chat" in edits_cli.error_of("edit", *words, "--system", "snow")


def test_a_run_in_chat_form_is_recorded(lifelong_cli: RunCommand, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "chat"))
    add_template(folder)
    code, _, err = lifelong_cli.run("--chat", "--system", "snow", "--carry-over", "--model", folder)
    assert code == 0, err
    config = yaml.safe_load((lifelong_cli.out / "config.yaml").read_text())
    assert (config["chat"], config["carry_over"]) == ({"system": "snow"}, True)
    assert {"plain_reliability", "plain_reliability_before"} <= set(lifelong_cli.summary()["metrics"])
    journal = [json.loads(line) for line in (lifelong_cli.out / "journal.jsonl").read_text().splitlines()]
    assert journal[0]["question"] == "the capital of France is"
    assert journal[0]["prompt"] == "<s> snow . where the capital of France is sea born "
    assert lifelong_cli.summary()["chat"] == {"system": "snow"}
    code, _, err = call(lifelong_cli.capsys, "rescore", lifelong_cli.out)
    assert code == 0, err
    rescored = json.loads((lifelong_cli.out / "rescored" / "summary.json").read_text())
    assert rescored["metrics"] == lifelong_cli.summary()["metrics"]
    code, _, err = lifelong_cli.run("--resume", "--model", folder)
    assert code == 1
    assert "chat" in err
