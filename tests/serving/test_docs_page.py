"""The page at ``/docs`` shows the whole OpenAPI document, and no page of the server loads anything from elsewhere."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse
from starlette.routing import Route

from easyedit_lifelong.serving import page_api
from tests.reporting.test_report_browser import BROWSER, open_page
from tests.support.http_servers import local_server, network_server
from tests.support.openapi_requests import operations_of

PAGES, FILES = ["/", "/docs"], ["/page.css", "/page.js", "/docs.js"]
OUTSIDE = re.compile(r"""\b[a-z]+://|["'(=\s]//\w""")
"""An address of another server."""

_DRIVER = """<!DOCTYPE html><title></title><iframe src="PAGE" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<script>
addEventListener("load", async () => {
  const frame = document.querySelector("iframe"), inside = frame.contentDocument, seen = {};
  await new Promise((resolve) => setTimeout(resolve, 1500));
  const page = inside.documentElement;
  const all = (name) => [...inside.querySelectorAll(name)];
  seen.requests = frame.contentWindow.performance.getEntriesByType("resource").map((entry) => entry.name);
  seen.headings = all("#operations h3").map((heading) => heading.textContent);
  seen.summaries = all("small.detail").map((summary) => summary.textContent);
  seen.bodies = all("#schemas h3").map((heading) => heading.textContent);
  const targets = all("a[href^='#']").map((anchor) => anchor.getAttribute("href").slice(1));
  seen.broken = targets.filter((id) => !inside.getElementById(id));
  seen.text = page.innerText;
  seen.layout = [page.scrollWidth, page.clientWidth];
  document.title = JSON.stringify(seen);
});
</script>"""


def test_the_pattern_finds_outside_addresses() -> None:
    for text in ("<script src='https://cdn.example/a.js'>", 'import "//cdn.example/a"', "url(//a.example/b)"):
        assert OUTSIDE.search(text), text
    assert not OUTSIDE.search("fetch('/v1/edits'); text.split(\"/\")")


def test_no_page_names_another_server_and_browsers_are_told_to_load_from_none(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        paths = [route.path for route in page_api.router.routes if isinstance(route, Route)]
        assert sorted(paths) == sorted(PAGES + FILES)
        for path in paths:
            answer = server.client.get(path)
            assert answer.status_code == 200
            assert OUTSIDE.search(answer.text) is None, path
            policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; "))
            assert policy.pop("default-src") == "'none'"
            assert set(policy.values()) == {"'self'", "'none'", "data:"}
        for path in ("/redoc", "/docs/oauth2-redirect"):
            assert server.client.get(path).status_code == 404, f"{path} is FastAPI's, which loads from the internet"


def test_no_other_route_is_a_page(tmp_path: Path) -> None:
    with local_server(tmp_path) as server:
        documented = set(server.client.get("/openapi.json").json()["paths"])
        app: Any = server.client.app
        routes = {path for path in _paths(app.routes) if path not in documented | {"/v1/models/{name:path}"}}
        assert routes == {"/openapi.json", *PAGES, *FILES}


def _paths(routes: Any) -> set[str]:
    """Return the paths of routes, also of those that another release of FastAPI keeps in a router."""
    paths = set()
    for route in routes:
        nested = getattr(route, "original_router", None) or getattr(route, "app", None)
        if isinstance(getattr(route, "path", None), str) and hasattr(route, "endpoint"):
            paths.add(route.path)
        elif hasattr(nested, "routes"):
            paths |= _paths(nested.routes)
    return paths


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: install Debian's chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_shows_each_operation_and_each_body(tmp_path: Path, width: int) -> None:
    driver = _DRIVER.replace("WIDTH", str(width)).replace("PAGE", "/docs")
    found: dict[str, Any] = {}

    def add_driver(app: Any) -> None:
        found["document"] = json.loads(json.dumps(app.openapi()))
        app.add_api_route("/drive", lambda: HTMLResponse(driver), methods=["GET"])

    with network_server(tmp_path / "edits", add_driver) as (url, _):
        dom, console = open_page(f"{url}/drive", tmp_path / "profile")
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title[1], dom[:500]
    seen, document = json.loads(html.unescape(title[1])), found["document"]
    assert [line for line in console if "favicon" not in line] == []
    assert seen["headings"] == list(map(str, operations_of(document)))
    assert "Edit one fact, or a list of facts: all of them or none." in seen["summaries"]
    assert all(summary.endswith((".", ")")) for summary in seen["summaries"])
    assert seen["bodies"] == sorted(document["components"]["schemas"])
    assert seen["broken"] == []
    assert {request.removeprefix(url) for request in seen["requests"]} == {"/page.css", "/docs.js", "/openapi.json"}
    for text in (
        "list of EditBody (at least 1, at most 100)",
        "CompletionChunk or Error (text/event-stream)",
        "201: AddedEdit or AddedEdits (application/json)",
        "errors: Error (application/json)",
        "limit in the query, optional",
        "error.message",
        "Needs no key.",
    ):
        assert text in seen["text"], text
    assert "[object" not in seen["text"] and "undefined" not in seen["text"]
    assert seen["layout"] == [width, width]
