"""Requests of any content get an answer with a status below 500, in JSON, and the server continues."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.http_servers import MODEL, LocalServer, local_server
from tests.support.served_models import FACTS, PROMPTS
from tests.support.thoroughness import examples

TEXT = st.one_of(
    st.sampled_from([*PROMPTS, "Rome", "", "a", f"{MODEL}@base", f"{MODEL}@v0", MODEL]), st.text(max_size=8)
)
NUMBER = st.one_of(st.integers(-3, 70), st.integers(), st.floats(), st.just(10**400))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT, st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]), "content": st.one_of(TEXT, JSON)})
SAMPLING = {
    "temperature": st.one_of(st.floats(0, 2), JSON),
    "top_p": st.one_of(st.floats(0, 1), JSON),
    "max_tokens": st.one_of(st.integers(1, 3), JSON),
    "n": st.one_of(st.integers(1, 2), JSON),
    "seed": NUMBER,
    "stop": st.one_of(TEXT, st.lists(TEXT, max_size=3), JSON),
    "stream": st.one_of(st.booleans(), JSON),
    "logprobs": st.one_of(st.integers(0, 3), st.booleans(), JSON),
    "stream_options": JSON,
    "logit_bias": JSON,
}
MODEL_NAME = st.one_of(st.sampled_from([MODEL, f"{MODEL}@base", f"{MODEL}@v1", f"{MODEL}@v999"]), JSON)
EDIT = st.fixed_dictionaries(
    {"prompt": st.one_of(st.sampled_from([prompt for prompt, _ in FACTS]), JSON), "target_new": TEXT},
    optional={"subject": st.one_of(TEXT, JSON), "id": st.one_of(TEXT, JSON), "rephrase_prompt": JSON, "other": JSON},
)
BODIES = {
    "/v1/completions": st.fixed_dictionaries(
        {"model": MODEL_NAME, "prompt": st.one_of(TEXT, st.lists(st.integers(0, 70), max_size=3), JSON)},
        optional=SAMPLING,
    ),
    "/v1/chat/completions": st.fixed_dictionaries(
        {"model": MODEL_NAME, "messages": st.one_of(st.lists(MESSAGE, max_size=3), JSON)}, optional=SAMPLING
    ),
    "/v1/edits": st.one_of(EDIT, st.lists(EDIT, max_size=2), JSON),
    "/v1/edits/rollback": st.one_of(st.fixed_dictionaries({"to": NUMBER}), JSON),
    "/v1/explain": st.fixed_dictionaries({"prompt": st.one_of(TEXT, JSON)}, optional={"model": MODEL_NAME}),
}
METHODS = ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with one edit."""
    with local_server(tmp_path_factory.mktemp("edits")) as server:
        server.edit({"prompt": FACTS[0][0], "target_new": "Rome"})
        yield server


def check(answer: Any, request: object) -> None:
    assert answer.status_code < 500, (request, answer.text)
    assert answer.headers["X-Edits-Version"].isdecimal()
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]


@settings(examples(150), suppress_health_check=list(HealthCheck))
@given(st.one_of(*(st.tuples(st.just(path), body) for path, body in BODIES.items())))
def test_any_body(server: LocalServer, request_: tuple[str, Any]) -> None:
    path, body = request_
    headers = {"Content-Type": "application/json"}
    check(server.client.post(path, content=json.dumps(body).encode(), headers=headers), request_)


@settings(examples(60), suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(METHODS),
    st.one_of(st.sampled_from(["/v1/edits", "/v1/models", "/v1/versions", "/", "/v1/metrics"]), st.text(max_size=9)),
    st.dictionaries(st.sampled_from(["limit", "offset", "version", "x"]), st.text(max_size=5), max_size=3),
    st.binary(max_size=30),
)
def test_any_path_and_raw_body(server: LocalServer, method: str, path: str, query: dict, body: bytes) -> None:
    url = path if path.startswith("/v1") else "/v1/edits/" + quote(path, safe="")
    check(server.client.request(method, url, params=query, content=body), (method, url, query, body))


def test_the_server_still_answers(server: LocalServer) -> None:
    assert server.complete(PROMPTS[0]).status_code == 200
    assert server.client.get("/healthz").json()["status"] == "ok"
