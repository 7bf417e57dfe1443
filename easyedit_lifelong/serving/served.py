"""What the routes of the HTTP API share: the engine, the settings, names of versions, and waiting for results."""

from __future__ import annotations

import asyncio
import copy
import math
import re
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jinja2
from fastapi import Depends, Request

from easyedit_lifelong.models.encoding import encode_text
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.serving.access import Access
from easyedit_lifelong.serving.api_errors import ApiError, timeout_error
from easyedit_lifelong.serving.engine import Engine
from easyedit_lifelong.serving.metrics import Metrics

Result = TypeVar("Result")

_SUFFIX = re.compile(r"(?P<name>.*)@(?:base|v(?P<version>\d{1,9}))", re.DOTALL)


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    Attributes:
        access: its keys.
        name: the name of the model; None for that of the loaded model.
        max_tokens: the largest number of new tokens that a request may ask for.
        timeout: seconds after which a request that is not answered fails.
        max_body: the largest body of a request, in bytes.
        only_loopback: whether the server can be reached from this machine only.
        log_prompts: whether prompts and answers are logged.
    """

    access: Access = field(default_factory=Access)
    name: str | None = None
    max_tokens: int = 1024
    timeout: float = 120.0
    max_body: int = 2**20
    only_loopback: bool = True
    log_prompts: bool = False


class PromptEncoder:
    """Encodes prompts and chats, in any thread.

    Args:
        tokenizer: the model's tokenizer. A copy of it is used: a tokenizer must not be used by two threads at once.
        vocabulary: the number of tokens that the model knows.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer, self._vocabulary, self._lock = copy.deepcopy(tokenizer), vocabulary, threading.Lock()

    def encode(self, prompt: str | list[int]) -> list[int]:
        """Return the token ids of a prompt.

        Raises:
            ApiError: the prompt is empty, or has a token that the model does not know.
        """
        if isinstance(prompt, str):
            with self._lock:
                tokens = encode_text(self._tokenizer, prompt)
        else:
            tokens = prompt
        if not tokens:
            raise ApiError(400, "prompt: has no tokens", param="prompt", code="invalid_value")
        if max(tokens) >= self._vocabulary:
            raise ApiError(400, f"prompt: tokens are 0 to {self._vocabulary - 1}", param="prompt", code="invalid_value")
        return tokens

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the token ids of a chat; see :meth:`chat_text`."""
        return self.encode(self.chat_text(messages))

    def chat_text(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the text of a chat, up to where the assistant's answer begins.

        Raises:
            ApiError: the model has no chat template, or its template refuses the messages.
        """
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise ApiError(400, "this model has no chat template; use /v1/completions", code="no_chat_template")
        try:
            with self._lock:
                text: str = self._tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, tokenize=False
                )
        except jinja2.TemplateError as error:
            raise ApiError(400, f"messages: {error}", param="messages", code="invalid_value") from error
        return text

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        with self._lock:
            text: str = self._tokenizer.decode(tokens)
        return text


class Served:
    """A running server, as its routes see it.

    Args:
        engine: the engine.
        settings: the settings.
        metrics: the metrics.

    Attributes:
        name: the name of the model.
        encoder: encodes prompts.
        context: the model's context in tokens; None if it has no limit.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics) -> None:
        self.engine, self.settings, self.metrics = engine, settings, metrics
        self.log = engine.live.log
        self.name = settings.name or Path(engine.live.name).name or "model"
        model = engine.live.model
        self.encoder = PromptEncoder(engine.live.tokenizer, model.get_input_embeddings().num_embeddings)
        self.context = context_length(model)

    @property
    def version(self) -> int:
        """The present version."""
        return self.log.present.number

    def version_of(self, model: str) -> int | None:
        """Return the version that a model's name asks for; None for the present one.

        Raises:
            ApiError: there is no such model.
        """
        if model == self.name:
            return None
        match = _SUFFIX.fullmatch(model)
        if match is not None and match["name"] == self.name:
            version = int(match["version"] or 0)
            if version <= self.version:
                return version
        raise ApiError(
            404,
            f"there is no model {model[:200]!r}; use {self.name!r}, '{self.name}@base', or '{self.name}@vN' for the "
            f"versions up to {self.version}",
            param="model",
            code="model_not_found",
        )

    async def result_of(self, future: Future[Result], *, started_is_final: bool = False) -> Result:
        """Wait for a future.

        Args:
            future: the future.
            started_is_final: whether to wait without a limit once its work has begun, because it can't be undone.

        Raises:
            ApiError: it took longer than the limit; then it is cancelled.
        """
        wrapped = asyncio.wrap_future(future)
        done, _ = await asyncio.wait([wrapped], timeout=self.settings.timeout)
        if not done:
            cancelled = future.cancel()
            if cancelled or not started_is_final:
                wrapped.add_done_callback(lambda task: task.cancelled() or task.exception())
                raise self.timeout_error()
        return await wrapped

    def timeout_error(self) -> ApiError:
        """Return the error of a request that took too long."""
        return timeout_error(self.settings.timeout)


def served_by(request: Request) -> Served:
    """Return the server of a request."""
    served: Served = request.app.state.served
    return served


def asks(request: Request) -> Served:
    """Return the server of a request that may ask.

    Raises:
        ApiError: the request has no valid key.
    """
    served = served_by(request)
    served.settings.access.who_asks(request.headers)
    return served


def edits(request: Request) -> tuple[Served, str]:
    """Return the server of a request that may change edits, and the name of its key.

    Raises:
        ApiError: the request has no valid key.
    """
    served = served_by(request)
    return served, served.settings.access.who_edits(request.headers)


Asks = Annotated[Served, Depends(asks)]
Edits = Annotated[tuple[Served, str], Depends(edits)]


def without_nan(value: Any) -> Any:
    """Return JSON data with null in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {str(name): without_nan(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
