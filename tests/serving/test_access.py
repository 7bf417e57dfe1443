"""Keys, hosts, and the limits of bodies, of the queue and of time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import HyperParameterError
from easyedit_lifelong.serving.access import Access, check_reachable, parse_keys
from easyedit_lifelong.serving.edit_log import EditLog
from tests.support.http_servers import LocalServer, local_server
from tests.support.served_models import PROMPTS

WAIT = 60
EDIT = {"prompt": PROMPTS[0], "target_new": "Rome"}


def status(server: LocalServer, method: str, path: str, key: str | None = None, **options: Any) -> int:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return server.client.request(method, path, headers=headers, **options).status_code


def test_each_route_needs_its_key_and_the_journal_names_it(tmp_path: Path) -> None:
    access = Access({"api": "asks"}, {"anna": "edits", "bert": "more"})
    with local_server(tmp_path, access=access) as server:
        completion = {"model": "tiny", "prompt": PROMPTS[0], "max_tokens": 1}
        asking = [("GET", "/v1/models", None), ("POST", "/v1/completions", completion), ("GET", "/v1/edits", None)]
        asking += [
            ("GET", "/v1/metrics", None),
            ("POST", "/v1/explain", {"prompt": "the"}),
            ("GET", "/v1/versions", None),
        ]
        for method, path, body in asking:
            allowed = [status(server, method, path, key, json=body) for key in (None, "wrong", "asks", "edits")]
            assert allowed == [401, 401, 200, 200], path
        allowed = [status(server, "POST", "/v1/edits", key, json=EDIT) for key in (None, "wrong", "asks", "edits")]
        assert allowed == [401, 401, 403, 201]
        assert status(server, "DELETE", "/v1/edits/edit-1", "asks") == 403
        assert status(server, "POST", "/v1/edits/rollback", "asks", json={"to": 0}) == 403
        assert status(server, "DELETE", "/v1/edits/edit-1", "more") == 200
        assert status(server, "GET", "/healthz") == 200
    log = EditLog(tmp_path)
    assert [version.who for version in log.versions[1:]] == ["anna", "bert"]
    log.close()


def test_without_an_api_key_only_edits_need_a_key(tmp_path: Path) -> None:
    with local_server(tmp_path, access=Access(edit_keys={"edit": "k"})) as server:
        assert server.text(PROMPTS[0]) is not None
        assert status(server, "POST", "/v1/edits", json=EDIT) == 403
        assert status(server, "POST", "/v1/edits", "k", json=EDIT) == 201


def test_an_address_that_others_can_reach_needs_both_keys() -> None:
    keys = {"api": "k"}
    for access in (Access(), Access(keys), Access(edit_keys=keys)):
        check_reachable("127.0.0.1", access)
        check_reachable("::1", access)
        check_reachable("localhost", access)
        for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
            with pytest.raises(HyperParameterError, match="--api-key and --edit-key"):
                check_reachable(host, access)
    check_reachable("0.0.0.0", Access(keys, keys))


def test_keys_have_names() -> None:
    assert parse_keys(["a", "anna=b=c"], "edit") == {"edit": "a", "anna": "b=c"}
    for keys, message in ((["a", "b"], "two keys"), (["a b"], "ASCII"), (["ä"], "ASCII")):
        with pytest.raises(HyperParameterError, match=message):
            parse_keys(keys, "edit")


@pytest.mark.parametrize("key", ["", "x=", "c2VjcmV0a2V5cw==", "=x"])
def test_no_key_is_empty_or_the_padding_of_one_in_base64(key: str) -> None:
    with pytest.raises(HyperParameterError, match="the edit key is empty, or contains '='") as refused:
        parse_keys([key], "edit")
    assert "c2V" not in str(refused.value)


def test_a_key_for_answers_and_one_for_edits_can_have_the_same_name(tmp_path: Path) -> None:
    with local_server(tmp_path, access=Access({"anna": "asks"}, {"anna": "edits"})) as server:
        assert [status(server, "GET", "/v1/models", key) for key in ("asks", "edits", "others")] == [200, 200, 401]
        assert [status(server, "POST", "/v1/edits", key, json=EDIT) for key in ("asks", "edits")] == [403, 201]


def test_pages_of_other_hosts_are_refused(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        for host, expected in (("evil.example", 403), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("localhost", 200)):
            assert server.client.get("/healthz", headers={"Host": host}).status_code == expected, host
    with local_server(tmp_path, only_loopback=False) as server:
        assert server.client.get("/healthz", headers={"Host": "models.example"}).status_code == 200


def test_large_bodies_are_refused_with_and_without_their_length(tmp_path: Path) -> None:
    with local_server(tmp_path, max_body=500) as server:
        headers = {"Content-Type": "application/json"}
        body = b'{"prompt": "' + b"x" * 600 + b'"}'
        for content in (body, iter([body[:300], body[300:]])):
            answer = server.client.post("/v1/edits", content=content, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_full_queue_is_429_and_a_slow_answer_504(tmp_path: Path) -> None:
    with local_server(tmp_path, max_waiting=1, timeout=0.3) as server:
        begun, release = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert release.wait(WAIT)

        server.engine.run(wait)
        assert begun.wait(WAIT)
        late = server.complete(PROMPTS[0])
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        full = server.client.post("/v1/edits", json=EDIT)
        assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
        release.set()
        while server.engine.waiting:
            pass
        begun.clear()
        release.clear()
        server.engine.run(wait)
        assert begun.wait(WAIT)
        assert server.client.post("/v1/edits", json=EDIT).status_code == 504
        release.set()
        while server.engine.waiting:
            pass
        assert server.engine.run(lambda: server.live.version).result(WAIT) == 0, "an edit that failed was made later"


def test_prompts_are_logged_only_if_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"), local_server(tmp_path / "a") as server:
        server.text(PROMPTS[0])
    assert PROMPTS[0] not in caplog.text
    with caplog.at_level("INFO"), local_server(tmp_path / "b", log_prompts=True) as server:
        server.text(PROMPTS[0])
    assert PROMPTS[0] in caplog.text


@pytest.mark.parametrize(("max_tokens", "words", "most"), [(4, 3, 4), (64, 60, 5), (64, 64, 1)])
def test_a_request_without_max_tokens_fits_the_server_and_the_context(
    tmp_path: Path, max_tokens: int, words: int, most: int
) -> None:
    with local_server(tmp_path, max_tokens=max_tokens, chat_template="{{ messages[0].content }}") as server:
        prompt = " ".join(["the"] * words)
        bodies = {
            "/v1/completions": {"prompt": prompt},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": prompt}]},
        }
        for path, body in bodies.items():
            answer = server.client.post(path, json={"model": "tiny", "temperature": 0, **body})
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["prompt_tokens"] == words
            assert 1 <= answer.json()["usage"]["completion_tokens"] <= most
