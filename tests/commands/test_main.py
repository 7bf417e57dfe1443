"""The command line as a whole: its verbs, wrong usage, and what is imported for a verb."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import easyedit_lifelong
from easyedit_lifelong.commands.main import COMMANDS, build_parser, main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["lifelongg"], "invalid choice"),
        (["lifelong"], "--hparams"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--edits", "0"], "'0' is not a whole number"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--edits", "-3"], "--edits"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--eval-every", "1.5"], "'1.5' is not a whole"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--only-eror"], "--only-eror"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--eval-at", "1,0"], "'0' is not a whole number"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--eval-at", "1,,9"], "'' is not a whole number"),
        (["lifelong", "--hparams", "h", "--data", "d", "--out", "o", "--eval-sample", "0"], "--eval-sample"),
        (["run"], "FILE"),
        (["demo", "--edits", "many"], "'many' is not a whole number greater than 0"),
        (["inspect", "x", "--limit", "-1"], "'-1' is not a whole number of at least 0"),
    ],
)
def test_wrong_usage(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_begins_with_a_tilde_is_no_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [
        "edit",
        "--hparams",
        "",
        "--prompt",
        "~nobody-here is",
        "--target",
        "~1.6 km",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(words) == 1
    assert "'' is not the name of a hyperparameter file" in capsys.readouterr().err  # and not: no such user


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"easyedit-lifelong {easyedit_lifelong.__version__}\n"


def test_plugins_are_listed_with_where_they_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for word in ("GRACE", "easyedit_lifelong.methods.grace.plugin", "zsre", "counterfact", "json", "csv"):
        assert word in out


def test_as_a_module() -> None:
    """A process of its own: the exit code is the shell's."""
    words = [sys.executable, "-m", "easyedit_lifelong", "lifelong", "--hparams", "nothing", "--data", "d", "--out", "o"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("easyedit-lifelong: nothing: no such hyperparameter file.")
    assert "Traceback" not in done.stderr


def test_help_lists_every_verb_in_order_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    place = 0
    for verb, line in COMMANDS.items():
        place = shown.index(f"{verb} {line}", place)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["lifelongg"]])
def test_what_needs_no_verb_imports_no_torch(words: list[str]) -> None:
    script = (
        "import sys\nfrom easyedit_lifelong.commands.main import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False).returncode == 0


def test_only_the_module_of_the_verb_that_is_called_is_imported() -> None:
    script = (
        "import sys\nfrom easyedit_lifelong.commands.main import main\nmain(['plugins'])\n"
        "loaded = [name for name in sys.modules if name.startswith('easyedit_lifelong.commands.')]\n"
        "print(*sorted(loaded), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == ["easyedit_lifelong.commands.main", "easyedit_lifelong.commands.plugins"]


DATA = ("--data", "--ds-dir", "--ds_dir")
RECORDS = {
    "lifelong": ("--edits", "--sample", "--limit"),
    "consecutive": ("--edits", "--sample", "--limit"),
    "scope": ("--edits", "--sample", "--limit"),
    "edit": ("--limit", "--sample"),
    "calibrate": ("--limit", "--sample"),
}


@pytest.mark.parametrize("verb", RECORDS)
def test_data_and_the_number_of_records_have_one_option_and_its_aliases(verb: str) -> None:
    parser = build_parser([verb])
    needed = ["--hparams", "h", "--out", "o"]
    for option in DATA:
        assert parser.parse_args([verb, *needed, option, "facts.json"]).data == "facts.json"
    for option in RECORDS[verb]:
        arguments = parser.parse_args([verb, *needed, "--data", "d", option, "7"])
        assert getattr(arguments, RECORDS[verb][0].removeprefix("--")) == 7


def test_interrupted_during_an_import(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("easyedit_lifelong.commands.main.importlib.import_module", stop)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "easyedit-lifelong: interrupted; nothing was written\n"


INTERRUPTED = {
    **dict.fromkeys(["doctor", "plugins", "generate", "inspect", "push"], "interrupted"),
    **dict.fromkeys(["edit", "export", "pull"], "interrupted; nothing was written"),
}
"""What a command says when it is interrupted, if it does not write its files one by one."""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plugins"], "interrupted"),
        (["inspect", "folder"], "interrupted"),
        (["push", "folder", "me/edits"], "interrupted"),
        (["pull", "me/edits", "--out", "folder"], "interrupted; nothing was written"),
        (["run", "file.yaml"], "interrupted; everything reported as done is on disk"),
    ],
)
def test_an_interrupted_command_speaks_of_files_only_if_it_writes_any(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"easyedit_lifelong.commands.{words[0]}.run", stop)
    assert main(words) == 130
    assert capsys.readouterr().err == f"easyedit-lifelong: {says}\n"


def test_each_command_has_a_message_for_an_interruption() -> None:
    needed = {
        "inspect": ["d"],
        "push": ["d", "o/n"],
        "pull": ["o/n", "--out", "d"],
        "generate": ["--edits", "d", "--prompt", "p"],
        "export": ["--edits", "d", "--out", "d"],
        "edit": ["--hparams", "h", "--out", "d"],
        "merge": ["d", "--out", "d"],
        "rollback": ["d", "--case", "0"],
        "report": ["d"],
        "run": ["f"],
        "lifelong": ["--hparams", "h", "--data", "d", "--out", "d"],
        "calibrate": ["--hparams", "h", "--data", "d"],
    }
    for verb in COMMANDS:
        arguments = build_parser([verb]).parse_args([verb, *needed.get(verb, [])])
        assert arguments.interrupted == INTERRUPTED.get(verb, "interrupted; everything reported as done is on disk")
