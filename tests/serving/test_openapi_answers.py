"""``/openapi.json`` describes the answers: real ones of every route match its schemas and have no further fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from tests.support.http_servers import MODEL, LocalServer, local_server
from tests.support.openapi_requests import operations_of
from tests.support.served_models import FACTS, PROMPTS

EDIT = {"prompt": FACTS[0][0], "target_new": FACTS[0][1]}
CHAT = [{"role": "user", "content": PROMPTS[1]}]
COMPLETION = {"model": MODEL, "prompt": PROMPTS[:2], "max_tokens": 3, "temperature": 0}
CHAT_COMPLETION = {"model": MODEL, "messages": CHAT, "max_tokens": 3, "temperature": 0}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}

# Each operation with the path and the body of a request that succeeds, in an order in which all do.
REQUESTS: list[tuple[str, str, Any]] = [
    ("GET /v1/versions", "/v1/versions", None),
    ("POST /v1/explain", "/v1/explain", {"prompt": PROMPTS[0]}),
    ("POST /v1/edits", "/v1/edits", EDIT),
    ("POST /v1/edits", "/v1/edits", {"messages": CHAT, "target_new": "Rome", "subject": "Hamlet"}),
    ("POST /v1/edits", "/v1/edits", [{"prompt": FACTS[4][0], "target_new": FACTS[4][1], "ground_truth": "Rome"}]),
    ("GET /v1/models", "/v1/models", None),
    ("GET /v1/models/{name}", f"/v1/models/{MODEL}@base", None),
    ("POST /v1/completions", "/v1/completions", COMPLETION),
    ("POST /v1/completions", "/v1/completions", {**COMPLETION, "logprobs": 2, "n": 2}),
    ("POST /v1/completions", "/v1/completions", {**COMPLETION, **STREAM, "logprobs": 1}),
    ("POST /v1/completions", "/v1/completions", {**COMPLETION, "stream": True}),
    ("POST /v1/chat/completions", "/v1/chat/completions", CHAT_COMPLETION),
    ("POST /v1/chat/completions", "/v1/chat/completions", {**CHAT_COMPLETION, "logprobs": True, "top_logprobs": 2}),
    ("POST /v1/chat/completions", "/v1/chat/completions", {**CHAT_COMPLETION, **STREAM, "logprobs": True}),
    ("GET /v1/edits", "/v1/edits", None),
    ("GET /v1/edits/{edit_id}", "/v1/edits/edit-2", None),
    ("POST /v1/explain", "/v1/explain", {"prompt": PROMPTS[0]}),
    ("DELETE /v1/edits/{edit_id}", "/v1/edits/edit-1", None),
    ("GET /v1/edits/{edit_id}", "/v1/edits/edit-1", None),
    ("POST /v1/edits/rollback", "/v1/edits/rollback", {"to": 1}),
    ("GET /v1/versions", "/v1/versions", None),
    ("GET /v1/metrics", "/v1/metrics", None),
    ("GET /healthz", "/healthz", None),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server(tmp_path_factory.mktemp("edits")) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: LocalServer) -> dict[str, Any]:
    return dict(server.client.get("/openapi.json").json())


def closed(schema: Any) -> Any:
    """Return a schema whose objects have no other fields than the listed ones."""
    if isinstance(schema, dict):
        limit = {"additionalProperties": False} if "properties" in schema else {}
        return {name: closed(entry) for name, entry in schema.items()} | limit
    return [closed(entry) for entry in schema] if isinstance(schema, list) else schema


def check(document: dict[str, Any], schema: Any, value: Any) -> None:
    """Check a value by a schema of the document."""
    components = {"components": {"schemas": closed(document["components"]["schemas"])}}
    Draft202012Validator({**closed(schema), **components}).validate(value)


def check_answer(document: dict[str, Any], operation: str, answer: Any) -> str:
    """Check an answer by what the document says about the operation; return the answer's media type."""
    method, _, path = operation.partition(" ")
    responses = document["paths"][path][method.lower()]["responses"]
    response = responses.get(str(answer.status_code), responses["default"])
    assert set(response["headers"]) == {"X-Edits-Version"}
    check(document, response["headers"]["X-Edits-Version"]["schema"], int(answer.headers["X-Edits-Version"]))
    media_type = answer.headers["Content-Type"].partition(";")[0]
    schema = response["content"][media_type]["schema"]
    if media_type == "application/json":
        check(document, schema, answer.json())
        return str(media_type)
    check(document, schema, answer.text)
    if media_type == "text/event-stream":
        *events, last = answer.text.removesuffix("\n\n").split("\n\n")
        assert last == "data: [DONE]" and len(events) > 2
        for event in events:
            check(document, schema["x-event-schema"], json.loads(event.removeprefix("data: ")))
    return str(media_type)


def test_every_operation_describes_its_answers_and_real_ones_match(
    server: LocalServer, document: dict[str, Any]
) -> None:
    media_types = set()
    for operation, path, body in REQUESTS:
        answer = server.client.request(operation.partition(" ")[0], path, json=body)
        assert answer.status_code < 300, answer.text
        method, _, template = operation.partition(" ")
        assert str(answer.status_code) in document["paths"][template][method.lower()]["responses"], operation
        media_types.add(check_answer(document, operation, answer))
    assert {operation for operation, *_ in REQUESTS} == set(map(str, operations_of(document)))
    assert media_types == {"application/json", "text/event-stream", "text/plain"}


@pytest.mark.parametrize(
    ("operation", "path", "body", "status"),
    [
        ("POST /v1/completions", "/v1/completions", {"prompt": 1}, 400),
        ("POST /v1/completions", "/v1/completions", {**COMPLETION, "model": "other", **STREAM}, 404),
        ("GET /v1/edits/{edit_id}", "/v1/edits/none", None, 404),
        ("POST /v1/edits", "/v1/edits", {**EDIT, "prompt": "the " * 70}, 400),
        ("GET /v1/versions", "/v1/versions?limit=0", None, 400),
    ],
)
def test_errors_match(
    server: LocalServer, document: dict[str, Any], operation: str, path: str, body: Any, status: int
) -> None:
    answer = server.client.request(operation.partition(" ")[0], path, json=body)
    assert answer.status_code == status
    check_answer(document, operation, answer)


def test_a_broken_server_answers_as_described(
    server: LocalServer, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.live.present, "_broken", RuntimeError("no disk"))
    answer = server.client.get("/healthz")
    assert answer.status_code == 503
    check_answer(document, "GET /healthz", answer)


def test_the_check_finds_missing_wrong_and_further_fields(document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/Health"}
    valid = {"status": "ok", "version": 1, "waiting": 0}
    check(document, schema, valid)
    for wrong in ({**valid, "more": 1}, {**valid, "version": "1"}, {"status": "ok", "version": 1}):
        with pytest.raises(ValidationError):
            check(document, schema, wrong)


def test_the_document_is_closed_under_references_and_lets_answers_grow(document: dict[str, Any]) -> None:
    text, schemas = json.dumps(document), document["components"]["schemas"]
    for name in set(part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert name in schemas
    for name in ("Edit", "Completion", "ChatCompletionChunk", "Version", "Health"):
        assert "additionalProperties" not in schemas[name], "a client that checks answers must accept new fields"
