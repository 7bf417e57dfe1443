"""The command line: its commands, wrong usage, and what is imported for a command."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import easyedit_lifelong
from easyedit_lifelong.commands.main import COMMANDS, EXIT_CODES, build_parser, main
from easyedit_lifelong.hparams_files import find_hparams


@pytest.mark.parametrize(
    ("words", "expected"),
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
def test_wrong_usage_exits_with_2_and_writes_nothing(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_begins_with_a_tilde_is_not_expanded_as_a_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
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
    assert "'' is not the name of a hyperparameter file" in capsys.readouterr().err


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"easyedit-lifelong {easyedit_lifelong.__version__}\n"


def test_plugins_are_listed_with_their_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    for word in ("GRACE", "easyedit_lifelong.methods.grace.plugin", "zsre", "counterfact", "json", "csv"):
        assert word in out


def test_the_module_runs_as_a_command_and_returns_an_exit_code() -> None:
    """In a subprocess, because the exit code is that of the process."""
    words = [sys.executable, "-m", "easyedit_lifelong", "lifelong", "--hparams", "nothing", "--data", "d", "--out", "o"]
    process = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("easyedit-lifelong: nothing: no such hyperparameter file.")
    assert "Traceback" not in process.stderr


def test_help_lists_every_command_in_order_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    position = 0
    for command, description in COMMANDS.items():
        position = output.index(f"{command} {description}", position)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["lifelongg"]])
def test_help_version_and_unknown_commands_import_no_torch(words: list[str]) -> None:
    script = (
        "import sys\nfrom easyedit_lifelong.commands.main import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False).returncode == 0


def test_only_the_modules_of_the_called_command_are_imported() -> None:
    script = (
        "import sys\nfrom easyedit_lifelong.commands.main import main\nmain(['models'])\n"
        "loaded = [name for name in sys.modules if name.startswith('easyedit_lifelong.commands.')]\n"
        "print(*sorted(loaded), file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    expected = [
        f"easyedit_lifelong.commands.{name}"
        for name in ("completion", "interruption", "main", "models", "options", "options.models")
    ]
    assert process.stderr.split() == expected


DATA_OPTIONS = ("--data", "--ds-dir", "--ds_dir")
LIMIT_OPTIONS = {
    "lifelong": ("--edits", "--sample", "--limit"),
    "consecutive": ("--edits", "--sample", "--limit"),
    "scope": ("--edits", "--sample", "--limit"),
    "edit": ("--limit", "--sample"),
    "calibrate": ("--limit", "--sample"),
}


@pytest.mark.parametrize("command", LIMIT_OPTIONS)
def test_data_and_record_limit_have_the_same_options_in_every_command(command: str) -> None:
    parser = build_parser([command])
    needed = ["--hparams", "h", "--out", "o"]
    for option in DATA_OPTIONS:
        assert parser.parse_args([command, *needed, option, "facts.json"]).data == "facts.json"
    for option in LIMIT_OPTIONS[command]:
        arguments = parser.parse_args([command, *needed, "--data", "d", option, "7"])
        assert getattr(arguments, LIMIT_OPTIONS[command][0].removeprefix("--")) == 7


def test_an_interrupt_during_an_import_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("easyedit_lifelong.commands.main.importlib.import_module", stop)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "easyedit-lifelong: interrupted; nothing was written\n"


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_each_command_has_an_example_that_is_accepted(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    _, example = capsys.readouterr().out.split("example:\n")
    program, *words = shlex.split(example)
    assert (program, words[0]) == ("easyedit-lifelong", verb)
    arguments = build_parser([verb]).parse_args(words)
    if getattr(arguments, "hparams", None):
        assert find_hparams(arguments.hparams).is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--hparams", "missing", "--edits", "d", "--api-key", "~secret"],
        ["lifelong", "--hparams", "missing", "--data", "d", "--out", "d", "--judge", "~secret"],
    ],
)
def test_a_text_that_begins_with_a_tilde_is_no_path(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "missing" in error
    assert "secret" not in error


def test_exit_codes_are_documented_as_help_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    documented = {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)}
    assert documented == EXIT_CODES
    with pytest.raises(SystemExit):
        main(["--help"])
    _, epilog = capsys.readouterr().out.split("exit codes:\n")
    assert [line.split(maxsplit=1) for line in epilog.splitlines()] == [[str(c), m] for c, m in EXIT_CODES.items()]


def test_plugins_and_findings_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    grace, *_ = json.loads(capsys.readouterr().out)
    assert (grace["kind"], grace["name"]) == ("method", "GRACE")
    assert grace["plugin"] == "easyedit_lifelong.methods.grace.plugin"
    assert grace["description"] == "GRACE (arXiv 2211.11031), loadable from an unchanged EasyEdit YAML"
    main(["doctor", "--json"])
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["torch"]["ok"]
    assert set(findings["torch"]) == {"what", "ok", "state", "remedy", "required"}


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_no_color_switches_colours_off(
    no_color: str | None, coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    main(["doctor"])
    out = capsys.readouterr().out
    assert ("\x1b[32mok" in out) == coloured
    assert bool(re.search(r"\x1b\[[\d;]*3\d", out)) == coloured
