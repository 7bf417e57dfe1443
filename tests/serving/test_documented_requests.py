"""The ``curl`` lines of docs/serving.md work as they are printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.http_servers import network_server

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_line_is_answered_without_an_error(tmp_path: Path) -> None:
    lines = re.findall(r"^curl .*$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 10
    answers = []
    with network_server(tmp_path, name="smollm2-135m") as (url, _):
        for line in lines:
            local = line.replace("localhost:8000", url.removeprefix("http://"))
            output = subprocess.run(["sh", "-c", local], capture_output=True, text=True, timeout=60, check=True).stdout
            answers.append(json.loads(output))
            assert "error" not in answers[-1], (line, output)
    texts = [answer["choices"][0]["text"] for answer in answers if "choices" in answer]
    assert texts[0] == texts[2] != texts[1]
    assert answers[4]["answered_by"] == ["edit-1"]
    assert [answer["version"] for answer in answers[6:9]] == [2, 3, 3]
    assert answers[9]["question"] == "What is the capital of France?"
