"""The outermost layer of the server: limits of bodies, allowed hosts, the version header, and counters."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyedit_lifelong.serving.access import host_of, is_loopback
from easyedit_lifelong.serving.api_errors import ApiError, api_error_of
from easyedit_lifelong.serving.metrics import Metrics

VERSION_HEADER = "X-Edits-Version"


class Guard:
    """An ASGI middleware that refuses large bodies and foreign hosts, and completes every answer.

    Args:
        app: the app.
        version: returns the present version, for answers that name no other.
        metrics: counts the answers.
        max_body: the largest body of a request, in bytes.
        only_loopback: whether to refuse requests whose ``Host`` isn't this machine: a page in a browser could otherwise
            send requests to a server without keys, under a name that points to this machine.
    """

    def __init__(
        self, app: ASGIApp, version: Callable[[], int], metrics: Metrics, max_body: int, only_loopback: bool
    ) -> None:
        self._app, self._version, self._metrics = app, version, metrics
        self._max_body, self._only_loopback = max_body, only_loopback

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
            await self._app(scope, await self._with_body(receive), send_completed)
        except Exception as error:
            if begun:
                raise
            await api_error_of(error).response()(scope, receive, send_completed)

    async def _with_body(self, receive: Receive) -> Receive:
        """Read the body; return a function that gives it to the app, then what else arrives.

        Raises:
            ApiError: the body is too large.
        """
        parts, more = [b""], True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            parts.append(message.get("body", b""))
            if sum(map(len, parts)) > self._max_body:
                raise self._too_large()
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        return receive_whole

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
