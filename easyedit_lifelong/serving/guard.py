"""The outermost layer of the server: limits of bodies, allowed hosts, the version header, and counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyedit_lifelong.serving.access import host_of, is_loopback
from easyedit_lifelong.serving.api_errors import ApiError, api_error_of, timeout_error
from easyedit_lifelong.serving.metrics import Metrics

VERSION_HEADER = "X-Edits-Version"


class Guard:
    """An ASGI middleware that refuses large bodies and foreign hosts, and completes every answer.

    Args:
        app: the app.
        version: returns the present version, for answers that name no other.
        metrics: counts the answers.
        max_body: the largest body of a request, in bytes.
        timeout: seconds until a request fails whose body is not complete.
        only_loopback: whether to refuse requests whose ``Host`` isn't this machine: a page in a browser could otherwise
            send requests to a server without keys, under a name that points to this machine.
    """

    def __init__(
        self,
        app: ASGIApp,
        version: Callable[[], int],
        metrics: Metrics,
        max_body: int,
        timeout: float,
        only_loopback: bool,
    ) -> None:
        self._app, self._version, self._metrics = app, version, metrics
        self._max_body, self._timeout, self._only_loopback = max_body, timeout, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, begun = time.perf_counter(), False

        async def send_completed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                if VERSION_HEADER not in headers:
                    headers[VERSION_HEADER] = str(self._version())
                headers["X-Content-Type-Options"] = "nosniff"
                self._metrics.count("requests_total", status=str(message["status"]))
                self._metrics.observe("request_seconds", time.perf_counter() - began)
            await send(message)

        try:
            self._check(Headers(scope=scope))
            body = await self._body(receive)
            await self._app(scope, _with_body(body, receive), send_completed)
        except Exception as error:
            if begun:
                raise
            await api_error_of(error).response()(scope, receive, send_completed)

    async def _body(self, receive: Receive) -> bytes:
        """Read the body of a request.

        Raises:
            ApiError: it is too large, takes too long, or the client has gone before its end.
        """
        try:
            return await asyncio.wait_for(self._complete_body(receive), self._timeout)
        except asyncio.TimeoutError:
            raise timeout_error(self._timeout) from None

    async def _complete_body(self, receive: Receive) -> bytes:
        """Read a body, however long it takes; see :meth:`_body`."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(499, "the client closed the connection", code="client_gone")  # nobody receives this
            more = message.get("more_body", False)
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise self._too_large()
        return bytes(body)

    def _check(self, headers: Headers) -> None:
        """Check host and announced size.

        Raises:
            ApiError: one of them is refused.
        """
        if self._only_loopback and not is_loopback(host_of(headers.get("host", "localhost"))):
            raise ApiError(403, "this server answers requests to localhost only", code="foreign_host")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._max_body} bytes", code="body_too_large")


def _with_body(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives a body to the app, then what else arrives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_all() -> Message:
        return messages.pop() if messages else await receive()

    return receive_all
