"""A judge that asks a language model over the OpenAI API, or any server with the same API."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from easyedit_lifelong.errors import PluginError, RunError
from easyedit_lifelong.evaluation.judges import JudgedAnswer, Verdict
from easyedit_lifelong.parsing import parse_json

KEY, BASE_URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
_REQUESTS_AT_ONCE = 8
_TIMEOUT = 60.0  # seconds
_RETRIES = 4  # of a request that fails
_ATTEMPTS = 3  # to get a reply that is understood
_INSTRUCTIONS = (
    "You compare an answer with the expected answer to a question or to the beginning of a sentence. Decide by the "
    "expected answer alone, even if it is not true in the real world. The answer is right if it gives the expected "
    "answer, in whatever words, and does not contradict it. Reply with one JSON object: "
    '{"right": true or false, "reason": "a few words"}.'
)


def check_openai(model: str) -> None:
    """Check that the client is installed, that there is a key, and that a model is named.

    Raises:
        PluginError: the package is not installed, the environment has no key, or the name is empty.
    """
    if not model:
        raise PluginError("judge openai: also name the model, such as openai:gpt-4o-mini")
    if importlib.util.find_spec("openai") is None:
        raise PluginError(
            "judge openai: the package openai isn't installed. Run: pip install 'easyedit-lifelong[judge]'"
        )
    if not os.environ.get(KEY):
        raise PluginError(
            f"judge openai: the environment variable {KEY} holds no key. For a server of your own, also set {BASE_URL}."
        )


class OpenAIJudge:
    """Asks a model about each answer, some answers at once, with retries and a timeout.

    Args:
        model: the name of the model.
    """

    def __init__(self, model: str) -> None:
        from openai import OpenAI

        self._model = model
        self._client = OpenAI(timeout=_TIMEOUT, max_retries=_RETRIES)

    def __call__(self, answers: Sequence[JudgedAnswer]) -> list[Verdict]:
        """Return the model's verdict on each answer.

        Raises:
            RunError: the server refuses the requests, can't be reached, or gives replies that are not understood.
        """
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(self._judge, answers))

    def _judge(self, answer: JudgedAnswer) -> Verdict:
        """Return the verdict on one answer."""
        from openai import OpenAIError

        fields = {"question": answer.prompt, "expected": answer.target, "answer": answer.output}
        messages: list[Any] = [
            {"role": "system", "content": _INSTRUCTIONS},
            {"role": "user", "content": json.dumps(fields, ensure_ascii=False)},
        ]
        text: str | None = None
        for _ in range(_ATTEMPTS):
            try:
                reply = self._client.chat.completions.create(model=self._model, messages=messages, temperature=0)
            except OpenAIError as error:
                raise RunError(f"judge openai:{self._model}: {' '.join(str(error).split())}") from error
            text = _text_of(reply)
            verdict = None if text is None else read_reply(text)
            if verdict is not None:
                return verdict
        if text is None:
            raise RunError(
                f"judge openai:{self._model}: the server's answers are no chat completions. Check {BASE_URL}, which "
                "mostly ends in /v1, and the name of the model."
            )
        raise RunError(f"judge openai:{self._model}: its replies lack the JSON object they should have: {text[:200]!r}")


def _text_of(reply: Any) -> str | None:
    """Return the text of a reply; None if it is no chat completion.

    The client passes on whatever a server sends with the status 200, also a page or a completion without choices.
    """
    choices = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    content = getattr(message, "content", None)
    if message is None or not isinstance(content, str | None):
        return None
    return content or ""


def read_reply(text: str) -> Verdict | None:
    """Return the verdict in a model's reply, or None if it has none.

    Args:
        text: the reply; the JSON object may stand among other text.
    """
    begin, end = text.find("{"), text.rfind("}")
    try:
        fields = parse_json(text[begin : end + 1])
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("right"), bool):
        return None
    return Verdict(float(fields["right"]), str(fields.get("reason", "")))
