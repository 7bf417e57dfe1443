"""The routes that ask the model: models, completions and chats, in the shapes of OpenAI's API."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from easyedit_lifelong.serving import answer_models as answers
from easyedit_lifelong.serving.answer_shapes import AnswerShape, ChatShape, CompletionShape
from easyedit_lifelong.serving.api_errors import ApiError, api_error_of
from easyedit_lifelong.serving.api_models import MAX_ANSWERS, ChatRequest, CompletionRequest, SamplingFields
from easyedit_lifelong.serving.api_schema import streamed
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.guard import VERSION_HEADER
from easyedit_lifelong.serving.jobs import GenerationJob
from easyedit_lifelong.serving.served import Asks, Served
from easyedit_lifelong.serving.streaming import Pieces, event

LOG = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["answers"])

_LISTED_VERSIONS = 100
_DEFAULT_COMPLETION, _DEFAULT_CHAT = 16, 256


@router.get("/models", response_model=answers.ModelList)
async def list_models(served: Asks) -> Response:
    """List the model, with and without its edits, and as of the latest versions."""
    latest = range(served.version, max(served.version - _LISTED_VERSIONS, 0), -1)
    names = [served.name, f"{served.name}@base", *(f"{served.name}@v{number}" for number in latest)]
    return JSONResponse({"object": "list", "data": [_model(name) for name in names]})


@router.get("/models/{name:path}", response_model=answers.Model)
async def get_model(name: str, served: Asks) -> Response:
    """Return one model."""
    served.version_of(name)
    return JSONResponse(_model(name))


@router.post("/completions", response_model=answers.Completion, responses=streamed("CompletionChunk"))
async def complete(request: Request, body: CompletionRequest, served: Asks) -> Response:
    """Continue one or several prompts."""
    prompts = [await run_in_threadpool(served.encoder.encode, prompt) for prompt in body.prompts()]
    limit = _default_limit(served, prompts, _DEFAULT_COMPLETION) if body.max_tokens is None else body.max_tokens
    shape = CompletionShape(served.encoder.decode, body.model, with_logprobs=body.logprobs is not None)
    return await _answer(request, served, body, _Question(prompts, limit, body.logprobs), shape)


@router.post("/chat/completions", response_model=answers.ChatCompletion, responses=streamed("ChatCompletionChunk"))
async def chat(request: Request, body: ChatRequest, served: Asks) -> Response:
    """Answer a chat."""
    messages = [message.plain() for message in body.messages]
    prompt = await run_in_threadpool(served.encoder.encode_chat, messages)
    limit = body.max_completion_tokens or body.max_tokens
    if limit is None:
        limit = _default_limit(served, [prompt], _DEFAULT_CHAT)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    shape = ChatShape(served.encoder.decode, body.model, with_logprobs=logprobs is not None)
    return await _answer(request, served, body, _Question([prompt], limit, logprobs), shape)


def _default_limit(served: Served, prompts: Sequence[list[int]], most: int) -> int:
    """Return the number of new tokens of a request that names none: what the server and the context allow.

    Args:
        served: the server.
        prompts: the token ids of each prompt.
        most: the number if both allow it.
    """
    room = most if served.context is None else served.context + 1 - max(map(len, prompts))
    return max(1, min(most, served.settings.max_tokens, room))


@dataclass(frozen=True)
class _Question:
    """The prompts of a request, encoded.

    Attributes:
        prompts: the token ids of each prompt.
        max_tokens: the largest number of new tokens.
        logprobs: how many alternatives to report at each token; None for no log probabilities.
    """

    prompts: Sequence[list[int]]
    max_tokens: int
    logprobs: int | None

    def check(self, served: Served, answers: int) -> None:
        """Check that the server allows the question.

        Raises:
            ApiError: it asks for too much.
        """
        limit = served.settings.max_tokens
        if self.max_tokens > limit:
            raise ApiError(400, f"max_tokens: this server allows {limit}", param="max_tokens", code="invalid_value")
        if len(self.prompts) * answers > MAX_ANSWERS:
            raise ApiError(400, f"n: {MAX_ANSWERS} answers are the most", param="n", code="invalid_value")
        longest = max(map(len, self.prompts))
        # Nothing is predicted after the last token, so n tokens need n - 1 positions after the prompt.
        if served.context is not None and longest + self.max_tokens > served.context + 1:
            raise ApiError(
                400,
                f"the model's context is {served.context} tokens; the prompt has {longest} and max_tokens is "
                f"{self.max_tokens}",
                param="max_tokens",
                code="context_length_exceeded",
            )

    def rows(self, body: SamplingFields) -> list[Row]:
        """Return the answers to generate, those of a prompt next to each other."""
        return [
            Row(prompt, _sampling(body, self.max_tokens, self.logprobs, number))
            for prompt in self.prompts
            for number in range(body.n or 1)
        ]


def _sampling(body: SamplingFields, max_tokens: int, logprobs: int | None, number: int) -> Sampling:
    """Return how answer ``number`` to a prompt is generated. Each of several answers has its own seed."""
    temperature = 1.0 if body.temperature is None else body.temperature
    top_p = 1.0 if body.top_p is None else body.top_p
    seed = None if body.seed is None else (body.seed + number) % 2**63
    return Sampling(max_tokens, temperature, top_p, seed, body.stops, logprobs)


async def _answer(
    request: Request, served: Served, body: SamplingFields, question: _Question, shape: AnswerShape
) -> Response:
    """Generate the answers to a question, and return or stream them."""
    version = served.version_of(body.model)
    question.check(served, body.n or 1)
    rows = question.rows(body)
    shape.begin(f"{shape.prefix}-{secrets.token_hex(12)}", int(time.time()), question.prompts, rows)
    deadline = time.monotonic() + served.settings.timeout
    if not body.stream:
        job = served.engine.generate(rows, version)
        await _wait(request, job.finished, job, served, deadline)
        _count(served, question, rows)
        # Not on the event loop: to decode 16,000 tokens and 20 alternatives of each takes seconds.
        content = await run_in_threadpool(shape.whole)
        return JSONResponse(content, headers=_version_header(job.started.result()))
    pieces = Pieces(asyncio.get_running_loop(), rows)
    job = served.engine.generate(rows, version)
    job.finished.add_done_callback(lambda _: pieces.end())
    begun = await _wait(request, job.started, job, served, deadline)
    events = _events(served, body, question, shape, job, pieces, deadline)
    return StreamingResponse(events, media_type="text/event-stream", headers=_version_header(begun))


async def _wait(request: Request, future: Any, job: GenerationJob, served: Served, deadline: float) -> Any:
    """Wait for a future of a job. If it takes too long, or the client has gone, cancel the job.

    Raises:
        ApiError: the request took too long, or nobody waits for its answer.
    """
    wrapped, gone = asyncio.wrap_future(future), asyncio.ensure_future(_until_gone(request))
    limit = max(0.0, deadline - time.monotonic())
    try:
        done, _ = await asyncio.wait([wrapped, gone], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        job.cancel()
        raise
    finally:
        gone.cancel()
    if wrapped not in done:
        job.cancel()
        wrapped.add_done_callback(lambda task: task.cancelled() or task.exception())
        if gone in done:
            raise ApiError(499, "the client closed the connection", code="client_gone")  # nobody receives this
        raise served.timeout_error()
    return wrapped.result()


async def _until_gone(request: Request) -> None:
    """Return when the client has closed the connection of a request whose body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    served: Served,
    body: SamplingFields,
    question: _Question,
    shape: AnswerShape,
    job: GenerationJob,
    pieces: Pieces,
    deadline: float,
) -> AsyncIterator[str]:
    """Yield the events of a streamed answer. If the client goes away, cancel the job."""
    try:
        for chunk in shape.first_chunks():
            yield event(chunk)
        async for index, text in pieces.until(deadline):
            yield event(shape.chunk(index, text))
        if not pieces.complete:
            yield event(served.timeout_error().body())
            return
        if (error := job.finished.exception()) is not None:
            yield event(api_error_of(error).body())
            return
        for index in range(len(job.rows)):
            yield event(await run_in_threadpool(shape.last_chunk, index))
        if body.with_usage:
            yield event(shape.usage_chunk())
        _count(served, question, job.rows)
        yield "data: [DONE]\n\n"
    finally:
        job.cancel()


def _count(served: Served, question: _Question, rows: Sequence[Row]) -> None:
    """Count the tokens of an answered question, and log it if that is asked for."""
    if served.settings.log_prompts:
        for row in rows:
            LOG.info("%r -> %r", served.encoder.decode(row.prompt), row.text)
    served.metrics.count("prompt_tokens_total", sum(map(len, question.prompts)))
    served.metrics.count("generated_tokens_total", sum(len(row.tokens) for row in rows))


def _version_header(version: int) -> dict[str, str]:
    """Return the header that tells the version of the answers."""
    return {VERSION_HEADER: str(version)}


def _model(name: str) -> dict[str, Any]:
    """Return the entry of a model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "easyedit_lifelong"}
