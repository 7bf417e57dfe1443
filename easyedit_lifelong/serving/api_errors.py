"""Errors of the HTTP API, in the shape that OpenAI's clients expect."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from easyedit_lifelong.errors import DataError, EditError, LifelongError
from easyedit_lifelong.serving.edit_errors import NoSuchEditError, NotRemovableError, NotServableError
from easyedit_lifelong.serving.engine import ClosedError, QueueFullError

LOG = logging.getLogger(__name__)


class ApiError(LifelongError):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        message: what is wrong, and what to do.
        param: the field of the request that is wrong.
        code: a name of the error for programs.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """Return the body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        message, param = _encodable(str(self)), None if self.param is None else _encodable(self.param)
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def timeout_error(seconds: float) -> ApiError:
    """Return the error of a request that took longer than a number of seconds."""
    return ApiError(504, f"the request took longer than {seconds:g} seconds", code="timeout")


def api_error_of(error: BaseException) -> ApiError:
    """Return the answer to a request that failed with an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, ClosedError):
        return ApiError(503, str(error), code="shutting_down")
    if isinstance(error, NotServableError):
        LOG.error("%s", error)
        return ApiError(503, "the edits could not be loaded again; restart the server", code="broken")
    if isinstance(error, NoSuchEditError):
        return ApiError(404, str(error), code="edit_not_found")
    if isinstance(error, NotRemovableError):
        return ApiError(400, str(error), code="not_removable")
    if isinstance(error, DataError):
        return ApiError(400, str(error), code="invalid_edit")
    if isinstance(error, EditError):
        return ApiError(400, str(error), code="edit_failed")
    if isinstance(error, LifelongError):  # its message can name files of the server
        LOG.error("%s", error)
        return ApiError(503, "the edits could not be read or written; the server's log says why", code="storage")
    LOG.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed to answer; its log says why", code="internal_error")


def install_error_handlers(app: FastAPI) -> None:
    """Make an app answer all errors in the same shape."""

    async def failed(_: Request, error: Exception) -> JSONResponse:
        return api_error_of(error).response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        errors = error.errors()
        if errors[0]["type"] == "json_invalid":
            message = f"the body is not JSON: {errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
            return ApiError(400, message, code="invalid_value").response()
        # Of the alternatives of a field, the one that has the right type says what is wrong.
        first = next((entry for entry in errors if not entry["type"].endswith("_type")), errors[0])
        field = ".".join(str(part) for part in first["loc"][1:] if not _is_type_name(part))
        message = f"{field}: {first['msg']}" if field else f"the body: {first['msg']}"
        if not field and not _says_json(request.headers.get("content-type", "")):
            message = "the body: send JSON with the header 'Content-Type: application/json'"
        return ApiError(400, message, param=field or None, code="invalid_value").response()

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, (UnicodeDecodeError, RecursionError)):  # FastAPI could not parse the body
            reason = "nested too deeply" if isinstance(error.__cause__, RecursionError) else "not UTF-8"
            return ApiError(400, f"the body is {reason}; send JSON in UTF-8", code="invalid_value").response()
        headers = None if error.headers is None else dict(error.headers)
        return ApiError(error.status_code, str(error.detail), headers=headers).response()

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(LifelongError, failed)
    app.add_exception_handler(Exception, failed)


def _says_json(content_type: str) -> bool:
    """Return whether a header announces JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _is_type_name(part: object) -> bool:
    """Return whether a part of a field's path is what pydantic calls one of the field's types, such as list[str]."""
    return isinstance(part, str) and (part in ("str", "int", "EditBody") or not part.isidentifier())


def _encodable(text: str) -> str:
    """Return a text without lone surrogates, which UTF-8 can't encode."""
    return text.encode("utf-8", "replace").decode()
