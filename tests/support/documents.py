"""The documents of the repository, and the code in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DOCUMENTS = [
    *ROOT.glob("*.md"),
    ROOT / "benchmarks" / "README.md",
    ROOT / "notebooks" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_PLACEHOLDER = re.compile(r"…|\.\.\.|(?:^| )\[|\b(?:WORD|COMMAND|NAME)\b")


def code_blocks(document: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language in a document."""
    return [block for name, block in _FENCED.findall(document.read_text(encoding="utf-8")) if name == language]


def commands(document: Path) -> list[list[str]]:
    """Return the words of each complete command of this package in a document, without ``sh run.sh`` and the like.

    These are lines of blocks, and code in sentences that has arguments. Commands with a placeholder are left out.
    """
    text = document.read_text(encoding="utf-8")
    blocks = [block for _, block in _FENCED.findall(text)]
    text = _FENCED.sub("", text)
    blocks += [block.replace("\n    ", "\n").removeprefix("    ") for block in _INDENTED.findall(text)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [_words(line) for line in lines]
    found += [words for words in map(_words, _SPAN.findall(_INDENTED.sub("", text))) if len(words) > 1]
    return [words for words in found if words]


def _words(line: str) -> list[str]:
    """Return the words of a command of this package; nothing for another line, or one with a placeholder."""
    prefix = re.match(r"(?:sh run\.sh|easyedit-lifelong) +", line)
    if prefix is None or _PLACEHOLDER.search(line):
        return []
    words = shlex.split(line[prefix.end() :], comments=True)
    return words[: words.index(">")] if ">" in words else words


def rows(text: str, header: str) -> list[list[str]]:
    """Return the rows of all tables whose first column has this header."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == header:
            inside = True
        elif inside and set(cells[0]) - set("-:"):
            found.append(cells)
    return found


def code_spans(cell: str) -> list[str]:
    """Return the texts between backticks."""
    return re.findall(r"`([^`]+)`", cell)
