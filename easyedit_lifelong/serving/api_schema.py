"""The app whose OpenAPI document has the streams, the errors, the version header and the keys of this server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from easyedit_lifelong.serving.answer_models import ChatCompletionChunk, CompletionChunk
from easyedit_lifelong.serving.guard import VERSION_HEADER

_COMPONENTS = "#/components/schemas/"
_ERROR = {
    "description": "An error.",
    "content": {"application/json": {"schema": {"$ref": f"{_COMPONENTS}Error"}}},
}
_TEXT, _TEXT_OR_NULL = {"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}
_ERROR_SCHEMA = {
    "title": "Error",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL},
        }
    },
}
_HEADERS = {VERSION_HEADER: {"description": "The version of the edits.", "schema": {"type": "integer"}}}
_CHUNKS: Sequence[tuple[type[BaseModel], Literal["serialization"]]] = (
    (CompletionChunk, "serialization"),
    (ChatCompletionChunk, "serialization"),
)
"""The events of streams, which no route returns as its body."""
_OPEN = "/healthz"
"""The documented route that needs no key."""


def streamed(chunk: str) -> dict[int | str, dict[str, Any]]:
    """Return what FastAPI's ``responses`` says about an answer that can be streamed.

    OpenAPI 3.1 has no schema for the events of a stream. They are in the extension ``x-event-schema``.

    Args:
        chunk: the name of the schema of an event.
    """
    schema = {
        "type": "string",
        "description": (
            f"Server-sent events: lines `data: {{…}}` with a {chunk} or an Error. After the last chunk, there is a "
            "line `data: [DONE]`."
        ),
        "x-event-schema": {"anyOf": [{"$ref": f"{_COMPONENTS}{name}"} for name in (chunk, "Error")]},
    }
    description = "The answers; with `stream: true`, their pieces."
    return {200: {"description": description, "content": {"text/event-stream": {"schema": schema}}}}


class Api(FastAPI):
    """An app that answers errors in OpenAI's shape, and says so in its OpenAPI document.

    FastAPI documents a status 422 in its own shape, which :func:`.install_error_handlers` replaces.
    """

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["Error"] = _ERROR_SCHEMA
            _, chunks = models_json_schema(_CHUNKS, ref_template=_COMPONENTS + "{model}")
            schemas.update(chunks["$defs"])
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    operation["responses"]["default"] = _ERROR
                    for response in operation["responses"].values():
                        response["headers"] = _HEADERS
                    if path != _OPEN:
                        operation["security"] = [{"key": []}, {}]  # a server can run without keys
            self.openapi_schema = document
        return self.openapi_schema
