"""A slow client gets all pieces of a streamed answer; an answer with log probabilities delays no other one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.served import PromptEncoder
from easyedit_lifelong.serving.streaming import Pieces
from tests.support.http_servers import MODEL, local_server, network_server
from tests.support.served_models import PROMPTS


async def read_slowly(row: Row, *, ended: bool) -> tuple[list[str], bool]:
    """Read the pieces "a" to "d" of a row, with the deadline after the first of them."""
    pieces = Pieces(asyncio.get_running_loop(), [row])
    for text in "abcd":
        row.add_text(text)
    if ended:
        pieces.end()
    await asyncio.sleep(0)
    read = []
    async for _, text in pieces.until(time.monotonic() + 0.05):
        read.append(text)
        await asyncio.sleep(0.1)
    return read, pieces.complete


def test_pieces_that_are_complete_at_the_deadline_are_all_read() -> None:
    assert asyncio.run(read_slowly(Row([1], Sampling()), ended=True)) == (list("abcd"), True)


def test_reading_stops_at_the_deadline_while_pieces_are_missing() -> None:
    read, complete = asyncio.run(read_slowly(Row([1], Sampling()), ended=False))
    assert not complete
    assert len(read) < 4


def test_a_stream_without_all_of_its_text_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(Pieces):
        """Pieces whose end the event loop learns too late."""

        def end(self) -> None:
            """Do nothing."""

    monkeypatch.setattr("easyedit_lifelong.serving.answers_api.Pieces", Late)
    with local_server(tmp_path, timeout=0.5) as server:
        events: list[Any] = [
            json.loads(line.removeprefix("data: "))
            for line in server.complete(PROMPTS[0], stream=True).text.splitlines()
            if line.startswith("data: {")
        ]
    assert events[-1]["error"]["code"] == "timeout"
    assert not any(event["choices"][0]["finish_reason"] for event in events[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_the_server_answers_while_log_probabilities_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    decode, decoding, release = PromptEncoder.decode, threading.Event(), threading.Event()

    def wait(encoder: PromptEncoder, tokens: list[int]) -> str:
        decoding.set()
        release.wait(60)
        return decode(encoder, tokens)

    monkeypatch.setattr(PromptEncoder, "decode", wait)
    body = {"model": MODEL, "prompt": PROMPTS[2], "temperature": 0, "logprobs": 1, "stream": stream}
    with network_server(tmp_path) as (url, _):
        thread = threading.Thread(target=httpx.post, args=(f"{url}/v1/completions",), kwargs={"json": body})
        thread.start()
        try:
            assert decoding.wait(60)
            assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
        finally:
            release.set()
            thread.join()
