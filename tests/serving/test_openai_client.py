"""OpenAI's official client completes, chats and streams against the server."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator

import openai
import pytest

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.serving.live_model import LiveModel
from tests.support.http_servers import MODEL, network_server
from tests.support.served_models import PROMPTS, requests

Served = tuple[openai.OpenAI, LiveModel]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A client of a server with one edit."""
    with network_server(tmp_path_factory.mktemp("edits")) as (url, live):
        live.add(requests(0), "test")
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), live


def expected(live: LiveModel, prompt: str, tokens: int = 6) -> str:
    return Scorer(live.tokenizer).generate(live.model, [prompt], tokens)[0]


def test_models(served: Served) -> None:
    client, _ = served
    assert [model.id for model in client.models.list()] == [MODEL, f"{MODEL}@base", f"{MODEL}@v1"]
    assert client.models.retrieve(f"{MODEL}@base").id == f"{MODEL}@base"
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.models.retrieve("other")


def test_completions(served: Served) -> None:
    client, live = served
    answer = client.completions.create(model=MODEL, prompt=PROMPTS, temperature=0, max_tokens=6, logprobs=1)
    texts = [choice.text for choice in answer.choices]
    assert texts == [expected(live, prompt) for prompt in PROMPTS]
    assert answer.usage is not None
    logprobs = [choice.logprobs for choice in answer.choices]
    assert answer.usage.completion_tokens == sum(len(entry.tokens or ()) for entry in logprobs if entry is not None)
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}


def test_several_sampled_answers(served: Served) -> None:
    client, _ = served

    def texts() -> list[str]:
        answer = client.completions.create(
            model=MODEL, prompt=PROMPTS[0], temperature=1.9, seed=3, n=6, max_tokens=8, top_p=0.99
        )
        assert [choice.index for choice in answer.choices] == list(range(6))
        return [choice.text for choice in answer.choices]

    assert texts() == texts()
    assert len(set(texts())) > 1


def test_streamed_completions_are_the_whole_ones(served: Served) -> None:
    client, live = served
    stream = client.completions.create(
        model=MODEL,
        prompt=PROMPTS[:2],
        temperature=0,
        max_tokens=6,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, reasons, usage = ["", ""], {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason is not None:
                reasons[choice.index] = choice.finish_reason
    assert texts == [expected(live, prompt) for prompt in PROMPTS[:2]]
    assert set(reasons) == {0, 1}
    assert usage is not None and usage.completion_tokens > 0


def test_chats_whole_and_streamed(served: Served) -> None:
    client, live = served
    messages = [{"role": "system", "content": "the capital"}, {"role": "user", "content": "of France is"}]
    text = expected(live, PROMPTS[0])
    answer = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        temperature=0,
        max_tokens=6,
        logprobs=True,
        top_logprobs=2,  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.content == text
    assert answer.choices[0].logprobs is not None
    assert [entry.token for entry in answer.choices[0].logprobs.content or ()] == text.split()
    stream = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        temperature=0,
        max_completion_tokens=6,
        stream=True,  # type: ignore[arg-type]
    )
    chunks = [chunk.choices[0] for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == text
    assert chunks[0].delta.role == "assistant"
    assert chunks[-1].finish_reason is not None


def test_stop_texts_and_versions(served: Served) -> None:
    client, live = served
    (first, second, *_) = expected(live, PROMPTS[0]).split()
    answer = client.completions.create(model=MODEL, prompt=PROMPTS[0], temperature=0, max_tokens=6, stop=[second])
    assert answer.choices[0].text.strip() == first
    raw = client.completions.with_raw_response.create(
        model=f"{MODEL}@base", prompt=PROMPTS[0], temperature=0, max_tokens=6
    )
    assert raw.headers["X-Edits-Version"] == "0"
    assert raw.parse().choices[0].text != expected(live, PROMPTS[0])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"model": "other"}, openai.NotFoundError, "there is no model 'other'"),
        ({"max_tokens": 62}, openai.BadRequestError, "context is 64 tokens"),
        ({"max_tokens": 65}, openai.BadRequestError, "this server allows 64"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"prompt": ""}, openai.BadRequestError, "prompt"),
        ({"prompt": [64]}, openai.BadRequestError, "tokens are 0 to 63"),
        ({"n": 16, "prompt": ["a"] * 5}, openai.BadRequestError, "64 answers"),
        ({"echo": True}, openai.BadRequestError, "echo"),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias"),
    ],
)
def test_errors_have_openais_shape(served: Served, fields: dict, error: type[Exception], message: str) -> None:
    client, _ = served
    with pytest.raises(error, match=message) as caught:
        client.completions.create(**{"model": MODEL, "prompt": PROMPTS[0], **fields})
    assert caught.value.type == "invalid_request_error"  # type: ignore[attr-defined]
    assert caught.value.param in fields or caught.value.param == "max_tokens"  # type: ignore[attr-defined]


def test_an_idle_connection_outlives_that_of_a_client(served: Served) -> None:
    """Clients close connections that are idle for 5 s. If the server did so first, it could lose their next request."""
    url = served[0].base_url
    connection = http.client.HTTPConnection(url.host, url.port)
    for pause in (0, 5.5):
        time.sleep(pause)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()
