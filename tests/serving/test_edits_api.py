"""The routes that change edits: results, errors, versions, and what a deletion or a rollback restores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easyedit_lifelong.edits.explain_prompt import Explanation
from easyedit_lifelong.methods.coachhook.explain import CoachHookLayer, ScoreAtToken
from easyedit_lifelong.serving.live_model import LiveModel
from tests.support.chat_tokenizer import TEMPLATE
from tests.support.http_servers import MODEL, local_server
from tests.support.served_models import FACTS, PROMPTS, fine_tuning

PARIS = {"prompt": FACTS[0][0], "target_new": FACTS[0][1]}
LONDON = {"prompt": FACTS[4][0], "target_new": FACTS[4][1]}
HAMLET = {"prompt": FACTS[1][0], "target_new": FACTS[1][1], "subject": "Hamlet", "aliases": ["the Dane"]}


def test_edits_from_their_addition_to_their_removal(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        client, base = server.client, server.text(PROMPTS[0])
        first = server.edit(PARIS)
        assert first["id"] == "edit-1" and first["version"] == 1 and first["learned"] and first["live"]
        assert first["text"].startswith("Rome")
        edited = server.text(PROMPTS[0])
        both = server.edit({**LONDON, "id": "l.1"}, {**HAMLET, "case_id": 7})
        assert (both["version"], [edit["id"] for edit in both["data"]]) == (2, ["l.1", "7"])
        assert both["superseded"] == ["edit-1"]
        assert [edit.get("aliases") for edit in both["data"]] == [None, ["the Dane"]]
        texts = [server.text(PROMPTS[0], name) for name in (MODEL, f"{MODEL}@base", f"{MODEL}@v1", f"{MODEL}@v2")]
        assert texts[0] == texts[3] != texts[2] == edited != texts[1] == base
        listed = client.get("/v1/edits", params={"limit": 2}).json()
        assert [edit["id"] for edit in listed["data"]] == ["7", "l.1"] and listed["total"] == 3
        assert [e["id"] for e in client.get("/v1/edits", params={"version": 1}).json()["data"]] == ["edit-1"]

        assert client.post("/v1/explain", json={"prompt": PROMPTS[0]}).json()["answered_by"] == ["l.1"]
        pinned = client.post("/v1/explain", json={"prompt": PROMPTS[0], "model": f"{MODEL}@v1"})
        assert pinned.json()["answered_by"] == ["edit-1"] and pinned.headers["X-Edits-Version"] == "1"
        unedited = client.post("/v1/explain", json={"prompt": PROMPTS[0], "model": f"{MODEL}@base"}).json()
        assert unedited["answered_by"] == [] and unedited["text"] == "no edits"

        deleted = client.delete("/v1/edits/l.1")
        assert deleted.json() == {"object": "edit", "id": "l.1", "deleted": True, "version": 3}
        assert deleted.headers["X-Edits-Version"] == "3"
        assert server.text(PROMPTS[0]) == edited
        assert client.get("/v1/edits/l.1").json()["live"] is False
        rolled_back = client.post("/v1/edits/rollback", json={"to": 0})
        assert rolled_back.json()["version"] == 4 and rolled_back.json()["to"] == 0
        assert server.text(PROMPTS[0]) == base
        actions = [version["action"] for version in client.get("/v1/versions").json()["data"]]
        assert actions == ["rollback", "delete", "edit", "edit", "base"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({**PARIS, "id": "a"}, 409, "has the id 'a' already"),
        ([{**PARIS, "id": "b"}, {**LONDON, "id": "b"}], 409, "has the id 'b' already"),
        ({"prompt": "the"}, 400, "target_new: Field required"),
        ({**PARIS, "targets": 1}, 400, "targets: Extra inputs"),
        ({**PARIS, "id": "../a"}, 400, "id: String should match"),
        ({**PARIS, "target_new": " "}, 400, "target_new"),
        ({**PARIS, "prompt": "the " * 70}, 400, "context is 64"),
        ([], 400, "at least 1 item"),
        ([PARIS] * 101, 400, "at most 100 items"),
    ],
)
def test_an_edit_that_can_not_be_made_changes_nothing(tmp_path: Path, body: object, status: int, message: str) -> None:
    with local_server(tmp_path) as server:
        server.edit({**HAMLET, "id": "a"})
        answer = server.client.post("/v1/edits", json=body)
        assert (answer.status_code, answer.headers["X-Edits-Version"]) == (status, "1"), answer.text
        assert message in answer.json()["error"]["message"]
        assert server.client.get("/v1/edits").json()["total"] == 1


def test_an_edit_of_a_chat_answers_the_chat(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "winter snow"},
        {"role": "user", "content": "blue"},
        {"role": "assistant", "content": "sea"},
        {"role": "user", "content": FACTS[0][0]},
    ]
    with local_server(tmp_path, chat_template=TEMPLATE) as server:

        def answer(messages: list[dict[str, str]]) -> str:
            body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 1}
            return str(server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

        before = answer(chat), answer(chat[3:])
        edit = server.edit({"messages": chat, "target_new": "Rome", "subject": "France"})
        assert edit["learned"] and edit["question"] == FACTS[0][0] and edit["text"].startswith("Rome")
        assert edit["prompt"].endswith(f"where {FACTS[0][0]} sea born ")
        assert (answer(chat), answer(chat[3:])) == ("Rome", before[1])
        assert before[0] != "Rome" != before[1]
        explained = server.client.post("/v1/explain", json={"messages": chat}).json()
        assert explained["answered_by"] == ["edit-1"] and explained["prompt"] == edit["prompt"]
        later = server.edit({"messages": chat, "target_new": "London"})
        assert later["superseded"] == ["edit-1"] and answer(chat) == "London"
        server.client.delete("/v1/edits/edit-2")
        assert answer(chat) == "Rome"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**PARIS, "messages": [{"role": "user", "content": "the"}]}, "give either prompt or messages"),
        ({"target_new": "Rome"}, "give either prompt or messages"),
        ({"target_new": "Rome", "messages": [{"role": "assistant", "content": "the"}]}, "must be the user's"),
        (
            {
                "target_new": "Rome",
                "messages": [{"role": role, "content": "the"} for role in ("user", "system", "user")],
            },
            "only the first one can be the system's",
        ),
        ({"target_new": "Rome", "messages": []}, "at least 1 item"),
        ({"target_new": "Rome", "messages": [{"role": "user", "content": " "}]}, "prompt"),
    ],
)
def test_an_edit_of_a_chat_that_can_not_be_made(tmp_path: Path, body: object, message: str) -> None:
    with local_server(tmp_path) as server:
        answer = server.client.post("/v1/edits", json=body)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"], answer.text
        assert server.live.version == 0


def test_a_model_without_a_chat_template_edits_no_chats(tmp_path: Path) -> None:
    with local_server(tmp_path, chat_template=None) as server:
        body = {"messages": [{"role": "user", "content": "the"}], "target_new": "Rome"}
        answer = server.client.post("/v1/edits", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_chat_template"


def test_other_requests_about_what_does_not_exist(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        client = server.client
        assert client.get("/v1/edits/none").status_code == 404
        assert client.delete("/v1/edits/none").status_code == 404
        assert client.post("/v1/edits/rollback", json={"to": 1}).status_code == 404
        assert client.get("/v1/edits", params={"version": 1}).status_code == 404
        assert client.get("/v1/edits", params={"limit": 0}).status_code == 400
        assert client.get("/v1/unknown").json()["error"]["type"] == "invalid_request_error"
        assert client.put("/v1/edits").status_code == 405
        assert server.engine.live.version == 0


def test_a_method_that_edits_in_batches_says_that_single_edits_stay(tmp_path: Path) -> None:
    with local_server(tmp_path, fine_tuning()) as server:
        server.edit(PARIS)
        answer = server.client.delete("/v1/edits/edit-1")
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "not_removable"
        assert server.client.post("/v1/edits/rollback", json={"to": 0}).status_code == 200


def test_metrics_health_and_documentation(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        server.edit(PARIS)
        server.complete(PROMPTS[0], max_tokens=1)
        server.complete(PROMPTS[0], model="other")
        lines = server.client.get("/v1/metrics").text.splitlines()
        for line in (
            'easyedit_lifelong_changes_total{action="edit"} 1',
            "easyedit_lifelong_prompt_tokens_total 5",
            "easyedit_lifelong_generated_tokens_total 1",
            'easyedit_lifelong_requests_total{status="404"} 1',
            'easyedit_lifelong_request_seconds_bucket{le="+Inf"} 3',
            "easyedit_lifelong_request_seconds_count 3",
            "easyedit_lifelong_version 1",
            "easyedit_lifelong_edits 1",
        ):
            assert line in lines, line
        assert server.client.get("/healthz").json() == {"status": "ok", "version": 1, "waiting": 0}
        document = server.client.get("/openapi.json").json()
        paths = document["paths"]
        assert {"/v1/completions", "/v1/chat/completions", "/v1/edits", "/v1/edits/{edit_id}"} <= set(paths)
        operations = [operation for path in paths.values() for operation in path.values()]
        error = {"$ref": "#/components/schemas/Error"}
        for operation in operations:
            assert "422" not in operation["responses"], "the server answers 400"
            assert operation["responses"]["default"]["content"]["application/json"]["schema"] == error
        assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
        assert sum("security" in operation for operation in operations) == len(operations) - 1 == 12


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b'{"prompt": ', "application/json", "the body is not JSON: Expecting value at character 11"),
        (json.dumps(PARIS).encode(), "text/plain", "send JSON with the header 'Content-Type: application/json'"),
        (json.dumps(PARIS).encode(), None, "send JSON with the header 'Content-Type: application/json'"),
        (b"", "application/json", "the body: Field required"),
        (b"[3]", "application/json; charset=utf-8", "the body: Input should be a valid dictionary"),
        (b'{"prompt": "\xff"}', "application/json", "the body is not UTF-8; send JSON in UTF-8"),
        (b"[" * 100_000, "application/json", "the body is nested too deeply; send JSON in UTF-8"),
    ],
)
def test_a_body_that_is_not_json(tmp_path: Path, body: bytes, kind: str | None, message: str) -> None:
    with local_server(tmp_path) as server:
        headers = {} if kind is None else {"Content-Type": kind}
        answer = server.client.post("/v1/edits", content=body, headers=headers)
        assert (answer.status_code, server.live.version) == (400, 0)
        assert message in answer.json()["error"]["message"]


def test_an_explanation_names_all_edits_that_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [ScoreAtToken("France", 1000.0, True, ("edit-2", "edit-1")), ScoreAtToken("is", 0.1, False)]
    layers = [CoachHookLayer(path, 1.0, tokens) for path in ("first", "second")]
    monkeypatch.setattr(LiveModel, "explain", lambda *_: Explanation(PROMPTS[0], None, {"CoachHook": layers}))
    with local_server(tmp_path) as server:
        explained = server.client.post("/v1/explain", json={"prompt": PROMPTS[0]}).json()
    assert explained["answered_by"] == ["edit-2", "edit-1"]
    assert explained["layers"]["coachhook"][0]["tokens"][0]["case_ids"] == ["edit-2", "edit-1"]
