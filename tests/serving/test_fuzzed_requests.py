"""Requests of any content get an answer with a status below 500, in JSON, and the server continues.

The requests are made from the server's OpenAPI document, so that a new operation or field is tested, too. The full test
sends more than 2,000 of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import thoroughness
from tests.support.http_servers import MODEL, LocalServer, local_server
from tests.support.openapi_requests import Operation, Values, operations_of
from tests.support.served_models import FACTS, PROMPTS
from tests.support.thoroughness import examples

OPERATIONS = [
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/edits",
    "GET /v1/edits/{edit_id}",
    "GET /v1/versions",
    "GET /v1/metrics",
    "GET /healthz",
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "POST /v1/explain",
    "DELETE /v1/edits/{edit_id}",
    "POST /v1/edits",
    "POST /v1/edits/rollback",
]
MODELS = st.sampled_from([MODEL, f"{MODEL}@base", f"{MODEL}@v1", f"{MODEL}@v999"])
FEW = st.integers(1, 3)
LIKELY = {
    "model": MODELS,
    "name": MODELS,
    "prompt": st.sampled_from(PROMPTS),
    "content": st.sampled_from(PROMPTS),
    "target_new": st.sampled_from(["Rome", "snow"]),
    "messages": st.sampled_from(PROMPTS).map(lambda prompt: [{"role": "user", "content": prompt}]),
    "max_tokens": FEW,
    "max_completion_tokens": FEW,
    "n": FEW,
    "edit_id": st.sampled_from([f"edit-{number}" for number in range(1, 5)]),
    "to": st.integers(0, 4),
    "version": st.integers(0, 4),
}
BODIES = {
    "POST /v1/explain": st.fixed_dictionaries({"prompt": LIKELY["prompt"]}),
    "POST /v1/edits": st.fixed_dictionaries({"prompt": LIKELY["prompt"], "target_new": LIKELY["target_new"]}),
}
"""Valid bodies where those of the schema are seldom valid: one of two fields must be there."""
QUERIES = st.dictionaries(st.sampled_from(["limit", "offset", "version", "x"]), st.text(max_size=5), max_size=3)
METHODS = ["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with edits."""
    with local_server(tmp_path_factory.mktemp("edits")) as server:
        for prompt, target in FACTS[:4]:
            server.edit({"prompt": prompt, "target_new": target})
        yield server


def check(answer: Any, request: object) -> None:
    assert answer.status_code < 500, (request, answer.text)
    assert answer.headers["X-Edits-Version"].isdecimal()
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]


def send(server: LocalServer, operation: Operation, values: Values, data: st.DataObject) -> int:
    """Send one request of an operation; return the status of the answer."""
    path, query = operation.path, dict(data.draw(QUERIES)) if data.draw(st.integers(1, 4)) == 1 else {}
    for (place, name), schema in operation.parameters.items():
        if place == "path":
            path = path.replace(
                f"{{{name}}}", quote(str(data.draw(values.field(name, schema))), safe="", errors="replace")
            )
        elif data.draw(st.booleans()):
            query[name] = str(data.draw(values.field(name, schema))).encode("utf-8", "replace").decode()
    body = None
    if operation.body is not None:
        any_body = values.field("", operation.body)
        bodies = st.one_of(BODIES.get(str(operation), any_body), any_body, any_body, any_body)
        body = json.dumps(data.draw(bodies)).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    answer = server.client.request(operation.method, path, params=query, content=body, headers=headers)
    check(answer, (operation, path, query, body))
    return int(answer.status_code)


def test_each_operation_is_tested(server: LocalServer) -> None:
    document = server.client.get("/openapi.json").json()
    assert sorted(map(str, operations_of(document))) == sorted(OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_request_of_an_operation(server: LocalServer, name: str) -> None:
    document, statuses = server.client.get("/openapi.json").json(), []
    (operation,) = (operation for operation in operations_of(document) if str(operation) == name)
    values = Values(document, LIKELY)

    @settings(examples(31), suppress_health_check=list(HealthCheck))
    @given(st.data())
    def test(data: st.DataObject) -> None:
        statuses.append(send(server, operation, values, data))

    test()
    assert any(status < 300 for status in statuses), "some requests are valid"


LONE = "a \ud800"
"""A text with a lone surrogate, which JSON can hold and UTF-8 can't."""
CHAT = [{"role": "user", "content": PROMPTS[0]}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"model": LONE, "prompt": PROMPTS[0]}),
        ("completions", {"model": MODEL, "prompt": LONE}),
        ("completions", {"model": MODEL, "prompt": [PROMPTS[0], LONE]}),
        ("completions", {"model": MODEL, "prompt": PROMPTS[0], "stop": LONE}),
        ("completions", {"model": MODEL, "prompt": PROMPTS[0], "user": LONE}),
        ("chat/completions", {"model": MODEL, "messages": [{"role": "system", "content": LONE}, *CHAT]}),
        ("chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": PROMPTS[0], "name": LONE}]}),
        (
            "chat/completions",
            {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": LONE}]}]},
        ),
        ("explain", {"prompt": LONE}),
        ("explain", {"messages": [{"role": "user", "content": LONE}]}),
        ("edits", {"prompt": PROMPTS[0], "target_new": LONE}),
        ("edits", {"prompt": PROMPTS[0], "target_new": "Rome", "subject": LONE}),
        ("edits", {"prompt": PROMPTS[0], "target_new": "Rome", "ground_truth": LONE}),
        ("edits", {"prompt": PROMPTS[0], "target_new": "Rome", "aliases": [LONE]}),
    ],
)
def test_a_lone_surrogate_is_refused_in_every_text(server: LocalServer, path: str, body: dict) -> None:
    answer = server.client.post(
        f"/v1/{path}", content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    check(answer, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"], "the field is named"


@settings(examples(60), suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(METHODS),
    st.one_of(st.sampled_from(["/v1/edits", "/v1/models", "/v1/versions", "/", "/v1/metrics"]), st.text(max_size=9)),
    QUERIES,
    st.binary(max_size=30),
)
def test_any_path_and_raw_body(server: LocalServer, method: str, path: str, query: dict, body: bytes) -> None:
    url = path if path.startswith("/v1") else "/v1/edits/" + quote(path, safe="")
    check(server.client.request(method, url, params=query, content=body), (method, url, query, body))


def test_the_server_still_answers(server: LocalServer) -> None:
    assert server.complete(PROMPTS[0]).status_code == 200
    assert server.client.get("/healthz").json()["status"] == "ok"


def test_the_full_test_sends_more_than_2000_requests(server: LocalServer) -> None:
    lines = server.client.get("/v1/metrics").text.splitlines()
    sent = sum(int(line.split()[1]) for line in lines if line.startswith("easyedit_lifelong_requests_total{"))
    assert sent > (2000 if thoroughness.full else 300)
