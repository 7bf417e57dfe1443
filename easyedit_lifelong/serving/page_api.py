"""The pages at ``/`` and ``/docs``: plain HTML, CSS and JavaScript, which use the same routes as any client.

They load nothing from other servers: a server that is reached in a network without internet shows them completely.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "page"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}


def _file(name: str, media_type: str) -> Response:
    """Return a file of the page."""
    return Response((_FOLDER / name).read_bytes(), media_type=media_type, headers=_HEADERS)


@router.get("/")
async def page() -> Response:
    """Return the page."""
    return _file("index.html", "text/html")


@router.get("/page.css")
async def style() -> Response:
    """Return the style of the page."""
    return _file("page.css", "text/css")


@router.get("/page.js")
async def script() -> Response:
    """Return the script of the page."""
    return _file("page.js", "text/javascript")


@router.get("/docs")
async def documentation() -> Response:
    """Return the page that shows the OpenAPI document."""
    return _file("docs.html", "text/html")


@router.get("/docs.js")
async def documentation_script() -> Response:
    """Return the script of the page that shows the OpenAPI document."""
    return _file("docs.js", "text/javascript")
