"""Judges: what the offline judge decides, and the judge that asks a server, with a server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.evaluation.answer_matching import Generation
from easyedit_lifelong.evaluation.judged_answers import JudgedAnswers
from easyedit_lifelong.evaluation.judges import JudgedAnswer, Verdict, match_judge
from easyedit_lifelong.evaluation.openai_judge import OpenAIJudge, check_openai, read_reply

GENERATION = Generation(
    "1", "the capital is", "Rome", "Paris", "Rome", True, (("its capital:", "Oslo", "not Rome", False),)
)


def test_the_offline_judge_compares_texts() -> None:
    outputs = ("the Rome.", "in Rome now", "Romeo", "")
    verdicts = match_judge([JudgedAnswer("p", "Rome", output) for output in outputs])
    assert [verdict.score for verdict in verdicts] == [1, 1, 0, 0]
    assert [verdict.reason for verdict in verdicts[:2]] == ["equals the target", "contains the target"]


def test_answers_of_both_models_are_scored_and_each_is_judged_once() -> None:
    asked: list[str] = []
    recorded: list[JudgedAnswer] = []

    def judge(answers: Any) -> list[Verdict]:
        asked.extend(answer.output for answer in answers)
        return [Verdict(float(answer.output == answer.target)) for answer in answers]

    judged = JudgedAnswers(
        judge, "strict", {JudgedAnswer("its capital:", "Rome", "Oslo"): Verdict(0.25)}, recorded.extend
    )
    for _ in range(2):
        assert judged.scores([GENERATION]).values == {
            "judge_score": 1.0,
            "judge_score_before": 0.0,
            "judge_score_rephrase": 0.0,
            "judge_score_rephrase_before": 0.25,
        }
    assert sorted(asked) == ["Paris", "Rome", "not Rome"]
    assert [answer.output for answer in recorded] == asked


@pytest.mark.parametrize("verdicts", [[], [Verdict(1.0)] * 2, [Verdict(2.0)] * 4, [1.0] * 4])
def test_a_judge_without_one_verdict_for_each_answer_is_refused(verdicts: list[Any]) -> None:
    with pytest.raises(RunError, match="judge odd: does not give one verdict from 0 to 1 on each answer"):
        JudgedAnswers(lambda answers: verdicts, "odd").scores([GENERATION])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"right": true, "reason": "same city"}', Verdict(1.0, "same city")),
        ('Sure: ```json\n{"right": false}\n```', Verdict(0.0)),
        ('{"right": "true"}', None),
        ("yes", None),
        ("[1]", None),
        ("", None),
        ('{"right": true, "reason": ' + "[" * 100_000 + "]" * 100_000 + "}", None),
    ],
)
def test_a_reply_is_read_strictly(text: str, expected: Verdict | None) -> None:
    assert read_reply(text) == expected


Reply = Callable[[dict[str, Any]], str | bytes]
"""Returns the message of a chat completion, or the body of an answer that is none."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], list[dict[str, Any]]]]:
    """Start a server with the API; its replies come from a function, and it returns the list of requests."""
    servers: list[ThreadingHTTPServer] = []

    def start(reply: Reply) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                content = reply(json.loads(body["messages"][1]["content"]))
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                data = content if isinstance(content, bytes) else json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if data.startswith(b"<") else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Write nothing."""

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{servers[0].server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        return requests

    yield start
    for running in servers:
        running.shutdown()
        running.server_close()


def test_a_model_is_asked_about_each_answer(server: Callable[[Reply], list[dict[str, Any]]]) -> None:
    requests = server(lambda fields: json.dumps({"right": fields["answer"] == fields["expected"], "reason": "r"}))
    check_openai("tiny")
    answers = [JudgedAnswer("p", "Rome", output) for output in ("Rome", "Oslo", "Rome")]
    assert OpenAIJudge("tiny")(answers) == [Verdict(1.0, "r"), Verdict(0.0, "r"), Verdict(1.0, "r")]
    assert {(request["path"], request["key"], request["model"]) for request in requests} == {
        ("/v1/chat/completions", "Bearer secret", "tiny")
    }


def test_a_reply_that_is_not_understood_is_asked_for_again_and_then_an_error(
    server: Callable[[Reply], list[dict[str, Any]]],
) -> None:
    replies = iter(["hm", '{"right": true}', "a", "b", "c"])
    requests = server(lambda fields: next(replies))
    judge = OpenAIJudge("tiny")
    assert judge([JudgedAnswer("p", "Rome", "Rome")]) == [Verdict(1.0)]
    with pytest.raises(RunError, match="judge openai:tiny: its replies lack the JSON object they should have: 'c'"):
        judge([JudgedAnswer("p", "Rome", "Rome")])
    assert len(requests) == 5


@pytest.mark.parametrize(
    "body",
    [
        b"<html>a page</html>",
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {"0": {}}}',
        b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}]}}]}',
        b'{"choices": [{"message": {"content": 1}}]}',
        b"[]",
    ],
)
def test_an_answer_that_is_no_chat_completion_is_an_error(
    server: Callable[[Reply], list[dict[str, Any]]], body: bytes
) -> None:
    server(lambda fields: body)
    with pytest.raises(RunError, match=r"openai:tiny: the server's answers are no chat completions\. Check OPENAI_"):
        OpenAIJudge("tiny")([JudgedAnswer("p", "Rome", "Rome")])


def test_a_server_that_cannot_be_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easyedit_lifelong.evaluation.openai_judge._RETRIES", 0)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(RunError, match="judge openai:tiny: Connection error"):
        OpenAIJudge("tiny")([JudgedAnswer("p", "Rome", "Rome")])


def test_a_missing_key_and_a_missing_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PluginError, match="OPENAI_API_KEY holds no key"):
        check_openai("tiny")
    with pytest.raises(PluginError, match="also name the model, such as openai:gpt"):
        check_openai("")
