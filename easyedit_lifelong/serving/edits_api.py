"""The routes that add, list, explain and remove edits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.evaluation.chat_requests import in_chat_form
from easyedit_lifelong.serving import answer_models as answers
from easyedit_lifelong.serving.api_errors import ApiError
from easyedit_lifelong.serving.api_models import EditBodies, EditBody, ExplainBody, RollbackBody
from easyedit_lifelong.serving.edit_errors import NoSuchEditError
from easyedit_lifelong.serving.edit_log import Version
from easyedit_lifelong.serving.guard import VERSION_HEADER
from easyedit_lifelong.serving.measured_edits import AddedEdits
from easyedit_lifelong.serving.served import Asks, Edits, Served, without_nan

router = APIRouter(prefix="/v1", tags=["edits"])

Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, lt=2**31)]


@router.post("/edits", status_code=201, response_model=answers.AddedEdit | answers.AddedEdits)
async def add_edits(body: EditBodies, access: Edits) -> Response:
    """Edit one fact, or a list of facts: all of them or none. The list makes one version.

    With `messages` instead of `prompt`, the fact is edited as the answer to the last message of a chat.
    The answer comes when the edits are on disk. `learned` says whether the model gives the target after the prompt,
    `text` is what it generates, and `superseded` are the recent edits whose target it no longer gives.
    """
    served, who = access
    bodies = body if isinstance(body, list) else [body]
    added: AddedEdits = await _change(served, "edit", lambda: served.engine.live.add(_requests(served, bodies), who))
    data = [_edit(served, edit_id, live=True) for edit_id in added.version.ids]
    if isinstance(body, list):
        content = {
            "object": "list",
            "version": added.version.number,
            "data": data,
            "superseded": added.superseded,
        }
    else:
        content = {**data[0], "superseded": added.superseded}
    return _answer(content, added.version.number, 201)


@router.get("/edits", response_model=answers.EditList)
async def list_edits(
    served: Asks, limit: Limit = 100, offset: Offset = 0, version: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """List the edits of the present version, or of an earlier one, the latest first."""
    number = served.version if version is None else _existing_version(served, version)
    ids = served.log.ids_at(number)[::-1]
    data = [_edit(served, edit_id, live=True) for edit_id in ids[offset : offset + limit]]
    return _answer({"object": "list", "version": number, "total": len(ids), "data": data}, number)


@router.get("/edits/{edit_id}", response_model=answers.Edit)
async def get_edit(edit_id: str, served: Asks) -> Response:
    """Return an edit, also one that has been removed (`live` is false then)."""
    if edit_id not in served.log.edits:
        raise NoSuchEditError(f"edit {edit_id!r} does not exist")
    return JSONResponse(_edit(served, edit_id, live=edit_id in served.log.ids_at(served.version)))


@router.delete("/edits/{edit_id}", response_model=answers.DeletedEdit)
async def delete_edit(edit_id: str, access: Edits) -> Response:
    """Remove an edit, as if it had never been made. The others stay. The answer comes when that is on disk."""
    served, who = access
    version: Version = await _change(served, "delete", lambda: served.engine.live.delete(edit_id, who))
    return _answer({"object": "edit", "id": edit_id, "deleted": True, "version": version.number}, version.number)


@router.post("/edits/rollback", response_model=answers.Version)
async def roll_back(body: RollbackBody, access: Edits) -> Response:
    """Restore the edits of an earlier version, as a new version. The answer comes when that is on disk."""
    served, who = access
    _existing_version(served, body.to)
    version: Version = await _change(served, "rollback", lambda: served.engine.live.roll_back(body.to, who))
    return _answer(_version(version), version.number)


@router.get("/versions", response_model=answers.VersionList)
async def list_versions(served: Asks, limit: Limit = 100, offset: Offset = 0) -> Response:
    """List the versions, the latest first: what made each of them, who, and when."""
    versions = served.log.versions[::-1]
    data = [_version(version) for version in versions[offset : offset + limit]]
    present = versions[0].number
    return _answer({"object": "list", "version": present, "total": len(versions), "data": data}, present)


@router.post("/explain", response_model=answers.Explanation)
async def explain_prompt(body: ExplainBody, served: Asks) -> Response:
    """Explain which edits act on a prompt or a chat, at which token and layer, and by which margin."""
    asked = served.version_of(served.name if body.model is None else body.model)
    prompt = body.prompt if body.chat is None else await run_in_threadpool(served.encoder.chat_text, body.chat)
    assert prompt is not None
    tokens = await run_in_threadpool(served.encoder.encode, prompt)
    if served.context is not None and len(tokens) > served.context:
        raise ApiError(400, f"prompt: the model's context is {served.context} tokens", param="prompt")

    def explain() -> tuple[int, Any]:
        version = served.version if asked is None else asked
        return version, served.engine.live.explain(prompt, version)

    version, explanation = await served.result_of(served.engine.run(explain, changes=False))
    layers = [] if explanation is None else [layer for layers in explanation.layers.values() for layer in layers]
    content = {
        "object": "explanation",
        "version": version,
        "prompt": prompt,
        "answered_by": list(dict.fromkeys(case_id for layer in layers for case_id in _answering(layer))),
        "text": "no edits" if explanation is None else str(explanation),
        "layers": {} if explanation is None else explanation.to_dict(),
    }
    return _answer(without_nan(content), version)


def _answering(layer: Any) -> tuple[int | str, ...]:
    """Return the cases that answered, by the explanation of a layer; none if the method does not know them."""
    answered_by = getattr(layer, "answered_by", None)
    if answered_by is None:
        return ()
    return answered_by if isinstance(answered_by, tuple) else (answered_by,)


async def _change(served: Served, kind: str, change: Callable[[], Any]) -> Any:
    """Run a change on the worker thread, and count it."""
    began = time.perf_counter()
    result = await served.result_of(served.engine.run(change), started_is_final=True)
    served.metrics.count("changes_total", action=kind)
    served.metrics.observe("change_seconds", time.perf_counter() - began)
    return result


def _requests(served: Served, bodies: list[EditBody]) -> list[EditRequest]:
    """Return the requests of bodies; those without an id get a new one. Call this on the worker thread.

    Raises:
        ApiError: an id is used already.
        DataError: a request can't be used.
    """
    ids: list[str] = [body.id for body in bodies if body.id is not None]
    used = [edit_id for number, edit_id in enumerate(ids) if edit_id in served.log.edits or edit_id in ids[:number]]
    if used:
        raise ApiError(409, f"an edit has the id {used[0]!r} already", param="id", code="id_exists")
    requests = []
    for number, body in enumerate(bodies):
        edit_id = body.id
        if edit_id is None:
            edit_id = served.log.new_id(ids)
            ids.append(edit_id)
        request = EditRequest.from_dict(body.record(edit_id), f"edit {number}")
        requests.append(request if body.chat is None else _in_chat(served, request, body.chat))
    return requests


def _in_chat(served: Served, request: EditRequest, messages: list[dict[str, str]]) -> EditRequest:
    """Return a request whose prompt is the last message of a chat, in chat form.

    Raises:
        ApiError: the last message is not the user's, a later one than the first is the system's, or the model's chat
            template can't be used.
        DataError: the template refuses the messages.
    """
    served.encoder.chat_text(messages)  # raises the errors of a chat completion
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = messages[:-1] if system is None else messages[1:-1]
    if messages[-1]["role"] != "user" or any(turn["role"] == "system" for turn in turns):
        raise ApiError(
            400,
            "messages: the last one must be the user's, and only the first one can be the system's",
            param="messages",
            code="invalid_value",
        )
    earlier = tuple((turn["role"], turn["content"]) for turn in turns)
    request = dataclasses.replace(request, context_turns=earlier)
    try:
        return in_chat_form([request], served.engine.live.tokenizer, system)[0]
    except ModelError as error:
        raise ApiError(400, str(error), param="messages", code="no_chat_template") from error


def _existing_version(served: Served, version: int) -> int:
    """Return a version's number.

    Raises:
        ApiError: there is no such version.
    """
    if version > served.version:
        raise ApiError(
            404, f"there is no version {version}; the present one is {served.version}", code="version_not_found"
        )
    return version


def _edit(served: Served, edit_id: str, *, live: bool) -> dict[str, Any]:
    """Return the entry of an edit; ``live`` tells whether the version in question has it."""
    return {"object": "edit", **served.log.edits[edit_id], "live": live}


def _version(version: Version) -> dict[str, Any]:
    """Return the entry of a version."""
    fields = {"version": version.number, "action": version.action, "edits": list(version.ids), "count": version.count}
    return {"object": "version", **fields, "who": version.who, "time": version.time, "to": version.to}


def _answer(content: Any, version: int, status: int = 200) -> JSONResponse:
    """Return an answer with its version."""
    return JSONResponse(content, status, {VERSION_HEADER: str(version)})
