"""A local Hugging Face Hub in memory, with the part of the protocol that the real client needs for small files."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from easyedit_lifelong.data import hub_datasets

TOKEN = "hf_who_may_write"


class Repository:
    """A repository with branches; a commit is a copy of all files."""

    def __init__(self, private: bool) -> None:
        self.private, self.gated = private, False
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.branches: dict[str, str] = {}
        self.add("main", {}, "initial commit")

    def add(self, branch: str, files: dict[str, bytes], message: str) -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        sha = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = {**before, **files}
        self.branches[branch] = sha
        self.messages.append(message)
        return sha


class Hub:
    """The repositories, and the method and path of each request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.received_requests: list[tuple[str, str]] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        self._file()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.received_requests.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid username or password.")
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words == ["api", "repos", "create"]:
            query = json.loads(body)
            name = f"{query['organization']}/{query['name']}"
            if query["organization"] == "theirs":
                return self._refuse(403, "", "You don't have the rights to create a model under this namespace")
            exists = name in self.hub.repositories
            private = query.get("private", query.get("visibility") == "private")
            self.hub.repositories.setdefault(name, Repository(private))
            return self._json({"url": f"{self.hub.url}/{name}", "name": name}, 409 if exists else 200)
        if words == ["api", "validate-yaml"]:
            assert json.loads(body)["content"].startswith("---\n"), "the client didn't send the model card"
            return self._json({"errors": [], "warnings": []})
        repository, action, revision = self.hub.repositories["/".join(words[2:4])], words[4], words[5]
        if action == "branch":
            exists = revision in repository.branches
            repository.branches.setdefault(revision, repository.branches["main"])
            return self._json({}, 409 if exists else 200)
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        assert action == "commit"
        lines = [json.loads(line) for line in body.splitlines()]
        new = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        sha = repository.add(revision, new, lines[0]["value"]["summary"])
        return self._json({"commitUrl": f"{self.hub.url}/{words[2]}/{words[3]}/commit/{sha}", "commitOid": sha})

    def _file(self) -> None:
        self.hub.received_requests.append((self.command, self.path))
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        repository = self.hub.repositories.get("/".join(words[:2]))
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            return self._refuse(404 if allowed else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            return self._refuse(403, "GatedRepo", "Access to this repository is restricted")
        sha = repository.branches.get(words[3], words[3])
        if sha not in repository.commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        content = repository.commits[sha].get("/".join(words[4:]))
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{etag}"'})

    def _refuse(self, status: int, code: str, message: str, more: dict[str, str] | None = None) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message, **(more or {})})

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def running() -> Iterator[Hub]:
    """Run a local Hub while the context is open."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def used(folder: Path) -> Iterator[Hub]:
    """Run a local Hub, which the Hub client of this process uses, with its cache in a folder."""
    constants = importlib.import_module("huggingface_hub.constants")
    with running() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
        patch.setattr(hub_datasets, "getproxies", dict)
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("HF_TOKEN", TOKEN)
        yield server


REPO = "owner/my-edits"
