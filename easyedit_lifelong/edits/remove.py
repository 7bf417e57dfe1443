"""Remove edits: the edits of a case, or a method's later batches; from a model, or from an edits folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.appended_steps import appended_count
from easyedit_lifelong.edits.edits_folder import lock_edits, read_index
from easyedit_lifelong.edits.folder_parts import (
    SavedEdits,
    check_no_edits,
    check_not_a_state,
    method_of,
    read_edits,
    write_edits,
)
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.editors import carries_edits, editors_on
from easyedit_lifelong.methods.shared.records import EditRecord, indices_of_case
from easyedit_lifelong.models.model_lock import model_lock
from easyedit_lifelong.paths import expanded_path
from easyedit_lifelong.plugins import get_plugins


def rollback_case(model: Any, case_id: int | str, *, prompt: str | None = None) -> list[EditRecord]:
    """Remove the edits of a case from a model, as if they had never been made. All other edits stay.

    Args:
        model: the edited model.
        case_id: the case; its edits are removed from every layer.
        prompt: remove only the edit of this prompt, if several edits have the same case_id.

    Returns:
        The records of the removed edits.

    Raises:
        EditError: the model has no such edit, or several of different prompts; or its method can't remove single
            edits, or not this one. Then nothing is changed.
    """
    methods = [method for method in get_plugins().methods if editors_on(model, method.name)]
    removals = [method.remove for method in methods if method.remove is not None]
    if not removals:
        reasons = [_reason(method, "remove", "case by case") for method in methods]
        raise EditError(reasons[0] if reasons else "the model carries no edits")
    records = [record for removal in removals for record in removal.records(model)]
    to_remove = [records[index] for index in indices_of_case(records, case_id, prompt)]
    with model_lock(model):
        for check_only in (True, False):  # first all checks, so that nothing is changed if one fails
            for removal in removals:
                removal.remove(model, to_remove, check_only=check_only)
    return to_remove


def rollback_to_batch(model: Any, batch: int) -> None:
    """Remove later batches from a model. It is then bitwise what it was after batch number ``batch``.

    Args:
        model: a model that carries edits of one method that edits in batches (all but GRACE, NeuralDB and retrieval).
        batch: the number of batches to keep; 0 to remove all.

    Raises:
        EditError: the model carries no such edits, edits of several such methods, or fewer batches.
    """
    batch_methods = [method for method in get_plugins().methods if method.remove_batches is not None]
    methods = [method for method in batch_methods if editors_on(model, method.name)]
    if not methods:
        raise EditError(f"the model carries no {_names_of(batch_methods)} edits")
    if len(methods) > 1:
        raise EditError(f"the model carries both {' and '.join(method.name for method in methods)} edits")
    assert methods[0].remove_batches is not None
    with model_lock(model):
        methods[0].remove_batches.back_to(model, batch)


def remove_all_edits(model: Any, method: EditMethod) -> None:
    """Remove all edits of a method from a model, if it carries any.

    Args:
        model: a model that carries no other method's edits.
        method: a method that can remove single edits or batches.
    """
    if not carries_edits(model):
        return
    if method.remove is not None:
        method.remove.remove(model, method.remove.records(model))
    else:
        assert method.remove_batches is not None
        method.remove_batches.back_to(model, 0)


@dataclass(frozen=True)
class FolderRollback:
    """The result of :func:`rollback_folder`.

    Attributes:
        folder: the folder that the remaining edits were written to.
        removed: the records of the removed edits.
        left: the number of remaining edits.
    """

    folder: Path
    removed: list[EditRecord]
    left: int


def rollback_folder(
    folder: str | Path,
    *,
    cases: Sequence[int | str] = (),
    prompt: str | None = None,
    batch: int | None = None,
    out: str | Path | None = None,
) -> FolderRollback:
    """Remove edits from an edits folder, without a model. The remaining edits load as if those had never been made.

    Args:
        folder: a folder that :func:`~easyedit_lifelong.save_edits` wrote.
        cases: the case_ids to remove, of methods that can remove single edits (GRACE, NeuralDB, retrieval). ``"42"``
            also stands for the number 42.
        prompt: remove only the edits of this prompt, if several edits have the same case_id.
        batch: the number of batches to keep, of a method that edits in batches (all but GRACE, NeuralDB and retrieval).
        out: another folder for the remaining edits; by default they replace the folder's edits, in one step.

    Returns:
        The folder, the removed edits, and the number of remaining ones.

    Raises:
        RunError: the folder is incomplete or damaged, holds no edits of such a method, or can't be written.
        EditError: a case or batch does not exist, or a case has several prompts; or the folder does not store the query
            of a later edit.
    """
    if prompt is not None and not cases:
        raise EditError("a prompt selects one of a case's edits; name the case, too")
    folder = expanded_path(folder, RunError)
    target = folder if out is None else expanded_path(out, RunError)
    in_place = target.resolve() == folder.resolve()
    if not in_place:
        check_no_edits(target)
    saved = read_edits(folder)
    remaining, removed = _without(saved, cases, prompt, batch)
    check_not_a_state(target)
    with lock_edits(target):
        if in_place and _has_changed(folder, saved):
            saved = read_edits(folder)
            remaining, removed = _without(saved, cases, prompt, batch)
        write_edits(target, saved.model, saved.fingerprint, remaining, replace=in_place)
    return FolderRollback(target, removed, sum(len(part.edits) for _, part in remaining))


def _has_changed(folder: Path, saved: SavedEdits) -> bool:
    """Whether another process has changed the edits of a folder since they were read."""
    index = read_index(folder)
    return index != saved.index or appended_count(folder, index) != saved.appended


def _without(
    saved: SavedEdits, cases: Sequence[int | str], prompt: str | None, batch: int | None
) -> tuple[list[tuple[str, EditsPart]], list[EditRecord]]:
    """Return the parts of a folder without some edits, and the removed edits; see :func:`rollback_folder`."""
    parts: list[EditsPart | None] = [part for _, part in saved.parts]
    removed: list[EditRecord] = []
    if cases:
        removed += _remove_cases(saved, parts, cases, prompt)
    if batch is not None:
        removed += _remove_batches(saved, parts, batch)
    remaining = [
        (method, part) for (method, _), part in zip(saved.parts, parts, strict=True) if part is not None and part.edits
    ]
    return remaining, removed


@dataclass(frozen=True)
class _SavedEdit:
    """One edit of a folder.

    Attributes:
        part: the index of its part in the folder.
        index: its index among the edits of the part.
        record: its record.
    """

    part: int
    index: int
    record: EditRecord


def _remove_cases(
    saved: SavedEdits, parts: list[EditsPart | None], cases: Sequence[int | str], prompt: str | None
) -> list[EditRecord]:
    """Replace the parts whose methods can remove single edits by parts without these cases.

    Args:
        saved: the folder.
        parts: the folder's parts, which are changed in place; None for a part without remaining edits.
        cases: the case_ids to remove.
        prompt: remove only the edits of this prompt.

    Returns:
        The records of the removed edits.
    """
    where = str(saved.path)
    methods = _methods_with_port(saved, "remove", "edits.", "case by case")
    edits = [
        _SavedEdit(number, index, EditRecord.from_dict(edit, where))
        for number in methods
        for index, edit in enumerate(saved.parts[number][1].edits)
    ]
    records = [edit.record for edit in edits]
    selected: set[int] = set()
    for case in cases:
        case_ids = [record.case_id for record in records if str(record.case_id) == str(case)]  # the number for "42"
        try:
            selected |= set(indices_of_case(records, case_ids[0] if case_ids else case, prompt))
        except EditError as error:
            raise EditError(f"{where}: {error}") from error
    to_remove = [edits[number] for number in sorted(selected)]
    for number, method in methods.items():
        indices = {edit.index for edit in to_remove if edit.part == number}
        part = saved.parts[number][1]
        assert method.remove is not None
        parts[number] = method.remove.remove_from(part, indices, where) if len(indices) < len(part.edits) else None
    return [edit.record for edit in to_remove]


def _remove_batches(saved: SavedEdits, parts: list[EditsPart | None], batch: int) -> list[EditRecord]:
    """Replace the part whose method edits in batches by a part without later batches.

    Args:
        saved: the folder.
        parts: the folder's parts, which are changed in place.
        batch: the number of batches to keep.

    Returns:
        The records of the removed edits.
    """
    where = str(saved.path)
    methods = _methods_with_port(saved, "remove_batches", "edits, so no batches;", "batch by batch")
    if len(methods) > 1:
        names = " and ".join(method.name for method in methods.values())
        raise RunError(f"{where}: holds edits of {names}, each with its own batches; a batch number is ambiguous")
    ((number, method),) = methods.items()
    before = parts[number]
    if before is None:
        return []
    assert method.remove_batches is not None
    after = method.remove_batches.first_batches(before, batch, where)
    parts[number] = after
    return [EditRecord.from_dict(edit, where) for edit in before.edits[len(after.edits) :]]


def _methods_with_port(saved: SavedEdits, port: str, missing: str, manner: str) -> dict[int, EditMethod]:
    """Return the methods of a folder's parts that have a port, by the index of the part.

    Args:
        saved: the folder.
        port: the port's name.
        missing: the end of the first part of the message, "holds no METHOD …": what the folder lacks.
        manner: how a method with the port removes edits, for the message: ``case by case``.

    Raises:
        RunError: no part's method has the port; the message names the methods that have it.
    """

    def has_port(method: EditMethod) -> bool:
        return getattr(method, port) is not None

    methods = {number: method_of(name, saved.path) for number, (name, _) in enumerate(saved.parts)}
    with_port = {number: method for number, method in methods.items() if has_port(method)}
    if not with_port:
        names = _names_of([method for method in get_plugins().methods if has_port(method)])
        reason = next((_reason(method, port, manner) for method in methods.values()), "")  # none in an empty folder
        raise RunError(f"{saved.path}: holds no {names} {missing} {reason}".rstrip(" ;"))
    return with_port


def _reason(method: EditMethod, port: str, manner: str) -> str:
    """Return the method's reason for lacking a port, or a general one, and what to do instead."""
    reason = method.reasons.get(port, f"{method.name}'s edits can't be removed {manner}")
    if port == "remove" and method.remove_batches is not None:
        return f"{reason.rstrip('.')}. Roll back to the end of a batch instead (rollback_to_batch, --to-batch)."
    return reason


def _names_of(methods: Sequence[EditMethod]) -> str:
    """Return the names of methods for a message: ``A, B or C``."""
    *others, last = (method.name for method in methods)
    return f"{', '.join(others)} or {last}" if others else last
