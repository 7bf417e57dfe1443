"""Write dataset files, and read invalid ones for their message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.data.readers import read_json, read_requests
from easyedit_lifelong.errors import DataError

PLAIN = [{"prompt": f"question {n}", "target_new": f"answer {n}"} for n in range(3)]
"""Records with the required fields only."""


def write_records(folder: Path, content: Any, name: str = "facts.json") -> Path:
    """Write text as it is and anything else as JSON; return the file."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def refusal(path: Path, read: Any = read_json) -> str:
    """Read a file that must be refused; return the message without the path that it begins with.

    The message has one line, or one for each record that can't be used.
    """
    with pytest.raises(DataError) as caught:
        read_requests(path, read)
    message = str(caught.value)
    assert message.startswith(str(path)), "the message doesn't begin with the file"
    assert all(line.startswith("  ") for line in message.split("\n")[1:]), "a line of the message names no record"
    return message[len(str(path)) :]
