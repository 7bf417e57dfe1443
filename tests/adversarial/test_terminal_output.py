"""Texts from users and files cannot control the terminal, and no encoding of the output ends in a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.reporting.console_tables import answer_table, print_json, print_line
from easyedit_lifelong.reporting.progress import count_progress
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.reporting.terminal_text import visible
from tests.support.edits_command_line import EditsCommandLine
from tests.support.thoroughness import examples

ATTACK = "who\x1b]0;PWN\x1b\\ wrote\x1b[2J\x9b2J \u202eHamlet\x07\x08\r"
CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066)]


def written_by(show: Any) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def table_with(text: str) -> Table:
    table = Table(title=Text(text))
    table.add_column(text)
    table.add_row(text)
    return table


SHOWN = {
    "line": lambda console, text: print_line(console, text),
    "print": lambda console, text: console.print(text, markup=False),
    "text": lambda console, text: console.print(Text.assemble((text, "bold"), " → ")),
    "table": lambda console, text: console.print(table_with(text)),
    "answers": lambda console, text: answer_table(console, [[text, text]], ["a", text], text),
    "json": lambda console, text: print_json(console, {text: [text]}),
}


@pytest.mark.parametrize("way", SHOWN)
@examples(30)
@given(text=st.text(st.one_of(st.sampled_from(CONTROLS), st.characters(exclude_categories=[])), max_size=12))
def test_no_way_of_printing_passes_control_characters_on(way: str, text: str) -> None:
    output = written_by(lambda console: SHOWN[way](console, text))
    assert not set(output) & (set(CONTROLS) - {"\n", "\t"})
    assert visible(output) == output
    if way == "json":
        assert json.loads(output) == json.loads(json.dumps({text: [text]}))


@pytest.mark.parametrize("way", SHOWN)
def test_no_way_of_printing_reads_markup_or_names_of_emoji(way: str) -> None:
    text = "[INST] who [b]wrote[/b] :moon: [/INST]"
    output = written_by(lambda console: SHOWN[way](console, text))
    assert text in output


@pytest.mark.parametrize("description", ["[INST] x [/INST]", "model{1}", ":moon:"])
def test_a_progress_bar_shows_its_description_unchanged(description: str) -> None:
    def count(console: Console) -> None:
        with count_progress(console, description) as progress:
            progress(1, 2)

    assert description in written_by(count)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_valid_in_any_encoding(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    value = {"prompt": "Zürich → 東京 \ud83d", "id": "\x1b"}
    print_json(Console(file=stream), value)
    stream.seek(0)
    assert json.loads(stream.read()) == value


def test_commands_show_hostile_prompts_ids_and_names_without_controls(edits_cli: EditsCommandLine) -> None:
    records = edits_cli.folder / "facts.json"
    fact = {"case_id": "id\x1b[2J", "prompt": ATTACK + " wrote Hamlet", "target_new": "Peru\x9b2J"}
    records.write_text(json.dumps([fact]), encoding="utf-8")
    out = edits_cli.folder / "edits\x1b[2J"
    calls: list[tuple[Any, ...]] = [
        ("edit", "--hparams", edits_cli.hparams["GRACE"], "--data", records, "--out", out),
        ("inspect", out),
        ("inspect", out, "--json"),
        ("generate", "--edits", out, "--prompt", ATTACK, "--compare", "--max-new-tokens", 2),
        ("rollback", out, "--case", "id\x1b[3J"),
        ("rollback", out, "--case", "id\x1b[2J"),
        ("inspect", edits_cli.folder / "gone\x1b[2J"),
        ("inspect", out, "--limit", "\x1b[2J"),
        ("inspect", out, "--unknown\x1b[2J"),
    ]
    codes = []
    for words in calls:
        code, output, error = edits_cli.run(*words)
        codes.append(code)
        error = error.replace("\r", "")  # progress bars of transformers
        assert not set(output + error) & (set(CONTROLS) - {"\n", "\t"}), words
    assert codes == [0, 0, 0, 0, 1, 0, 1, 2, 2]


@pytest.mark.full
def test_an_ascii_terminal_gets_question_marks(edits_cli: EditsCommandLine, tmp_path: Path) -> None:
    edits_cli.edit("GRACE", "edits")
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [sys.executable, "-m", "easyedit_lifelong", "rollback", str(tmp_path / "edits"), "--case", "0"]
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"who wrote Hamlet ? Peru" in done.stdout
