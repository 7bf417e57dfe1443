"""What the documents tell a newcomer to type is what the command line takes, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from easyedit_lifelong.cli import build_parser
from easyedit_lifelong.hyperparams import find_hparams

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/*.md")]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of ours in a shell block that is written out, without a placeholder."""
    found = []
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["sh", "run.sh"]:
                    words = words[2:]
                elif words[:1] == ["easyedit-lifelong"]:
                    words = words[1:]
                else:
                    continue
                if words and words[0] != "test" and "…" not in line:
                    found.append(words)
    return found


def test_there_are_commands() -> None:
    assert {words[0] for words in commands()} >= {"lifelong", "consecutive", "scope", "covariance", "doctor", "plugins"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_as_written_is_taken(words: list[str]) -> None:
    arguments = vars(build_parser().parse_args(words))
    for name in ("data", "ds_dir"):
        if arguments.get(name) is not None:
            assert (ROOT / arguments[name]).is_file()
    if arguments.get("hparams"):
        assert find_hparams(arguments["hparams"]).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing
