"""Over HTTP: an edit is answered while an answer is streamed, which keeps its version to its end."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.serving.continuous_batch import ContinuousBatch
from tests.support.http_servers import MODEL, network_server
from tests.support.served_models import FACTS, PROMPTS
from tests.support.tiny_models import build_tokenizer

TOKENS, WAIT = 40, 60


def test_an_edit_is_answered_while_an_answer_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, streamed = ContinuousBatch.step, threading.Event()
    monkeypatch.setattr(ContinuousBatch, "step", lambda batch: [time.sleep(0.02), step(batch)][1])
    body = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS}
    ends: dict[str, float] = {}

    def stream(url: str, answer: dict[str, Any]) -> None:
        request = {**body, "prompt": PROMPTS[2], "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=request, timeout=WAIT) as response:
            answer["version"], answer["text"] = response.headers["X-Edits-Version"], ""
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    answer["text"] += json.loads(line[6:])["choices"][0]["text"]
                    streamed.set()
        ends["answer"] = time.monotonic()

    with network_server(tmp_path) as (url, live):
        facts = [{"prompt": prompt, "target_new": target, "id": f"f{n}"} for n, (prompt, target) in enumerate(FACTS)]
        assert httpx.post(f"{url}/v1/edits", json=facts[:3], timeout=WAIT).status_code == 201
        answer: dict[str, Any] = {}
        thread = threading.Thread(target=stream, args=(url, answer))
        thread.start()
        assert streamed.wait(WAIT)
        edit = httpx.post(f"{url}/v1/edits", json={**facts[2], "id": "again", "target_new": "bird"}, timeout=WAIT)
        ends["edit"] = time.monotonic()
        now = httpx.post(f"{url}/v1/completions", json={**body, "prompt": PROMPTS[2]}, timeout=WAIT)
        thread.join(WAIT)
        assert edit.json()["version"] == 2
        assert ends["edit"] < ends["answer"]
        assert (answer["version"], now.headers["X-Edits-Version"]) == ("1", "2")
        texts = [answer["text"], now.json()["choices"][0]["text"]]
        for version, text in enumerate(texts, 1):
            with live.at(version) as model:
                assert text == Scorer(build_tokenizer()).generate(model, [PROMPTS[2]], TOKENS)[0]
        assert texts[0] != texts[1]
