"""Take edits out later on: single edits, or a method's later batches; on a model, or in a folder without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import SavedEdits, method_of, read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.edit_stores import EditsPart
from easyedit_lifelong.methods.shared.editors import editors_on
from easyedit_lifelong.methods.shared.records import EditRecord, numbers_of_case
from easyedit_lifelong.plugins import get_plugins


def rollback_case(model: Any, case_id: int | str, *, prompt: str | None = None) -> list[EditRecord]:
    """Take a case's edits off a model, as if they had never been made; all others stay.

    Args:
        model: the edited model.
        case_id: which case; its edits go from every layer that carries them.
        prompt: only its edit of this prompt, where several edits have the same id.

    Returns:
        The records of the edits that were taken off.

    Raises:
        EditError: there is no such edit, or several of different prompts; or its method can't take single edits out,
            or can't take this one. Then nothing is changed.
    """
    carried = {method.name: method for method in get_plugins().methods if editors_on(model, method.name)}
    removals = [method.remove for method in carried.values() if method.remove is not None]
    if not removals:
        reasons = [_reason(method, "remove", "case by case") for method in carried.values()]
        raise EditError(reasons[0] if reasons else "the model carries no edits")
    own = [removal.records(model) for removal in removals]
    records = [record for some in own for record in some]
    wanted = [records[n] for n in numbers_of_case(records, case_id, prompt)]
    for check_only in (True, False):
        for removal in removals:
            removal.remove(model, wanted, check_only=check_only)
    return wanted


def rollback_to_batch(model: Any, batch: int) -> None:
    """Take later batches off a model; it is bitwise what it was after that batch.

    Args:
        model: a model that carries edits of one method that edits in batches (CoachHook's).
        batch: how many batches to keep, 0 for none.

    Raises:
        EditError: the model carries no such edits, or not as many batches.
    """
    able = [method for method in get_plugins().methods if method.remove_batches is not None]
    carried = [method for method in able if editors_on(model, method.name)]
    if len(carried) != 1:
        both = " and ".join(method.name for method in carried)
        none = " or ".join(method.name for method in able)
        raise EditError(f"the model carries {f'both {both}' if both else f'no {none}'} edits")
    assert carried[0].remove_batches is not None
    carried[0].remove_batches.back_to(model, batch)


@dataclass(frozen=True)
class FolderRollback:
    """What was taken out of a folder.

    Attributes:
        folder: where the edits that are left were written to.
        removed: the records of those that aren't.
        left: how many are left.
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
    """Take edits out of a folder, without a model; what is left loads as if they had never been made.

    Args:
        folder: what :func:`~easyedit_lifelong.save_edits` wrote.
        cases: the cases to take out, of methods whose edits can be taken out one by one (GRACE's). A text also means
            the number that it spells.
        prompt: only the cases' edits of this prompt, where several edits have the same id.
        batch: how many batches to keep, of a method that edits in batches (CoachHook's).
        out: another folder for what is left; by default it replaces what was there, in one step.

    Raises:
        RunError: the folder isn't whole, has no edits of such a method, or can't be written.
        EditError: there is no such case or batch, or a case has several prompts; or the query of a later
            edit is not stored.
    """
    if prompt is not None and not cases:
        raise EditError("a prompt says which edit of a case is meant; name the case, too")
    folder = Path(folder).expanduser()
    saved = read_edits(folder)
    target = folder if out is None else Path(out).expanduser()
    if out is not None and target.resolve() != folder.resolve() and (target / INDEX).exists():
        raise RunError(f"{target}: holds edits already; name another folder")
    parts: list[EditsPart | None] = [part for _, part in saved.parts]
    removed: list[EditRecord] = []
    if cases:
        removed += _remove_cases(saved, parts, cases, prompt)
    if batch is not None:
        removed += _remove_batches(saved, parts, batch)
    left = [
        (method, part) for (method, _), part in zip(saved.parts, parts, strict=True) if part is not None and part.edits
    ]
    write_edits(target, saved.model, saved.fingerprint, left)
    return FolderRollback(target, removed, sum(len(part.edits) for _, part in left))


def _remove_cases(
    saved: SavedEdits, parts: list[EditsPart | None], cases: Sequence[int | str], prompt: str | None
) -> list[EditRecord]:
    """Take cases out of the parts whose methods allow it, in place; return their records."""
    where = str(saved.path)
    methods = _parts_of(saved, "remove", "edits.", "case by case")
    places = [(n, at) for n in methods for at in range(len(saved.parts[n][1].edits))]
    records = [EditRecord.from_dict(saved.parts[n][1].edits[at], where) for n, at in places]
    chosen: set[int] = set()
    for case in cases:
        known = [record.case_id for record in records if str(record.case_id) == str(case)]
        try:
            chosen |= set(numbers_of_case(records, known[0] if known else case, prompt))
        except EditError as error:
            raise EditError(f"{where}: {error}") from error
    for n, method in methods.items():
        numbers = {places[index][1] for index in chosen if places[index][0] == n}
        part = saved.parts[n][1]
        assert method.remove is not None
        parts[n] = method.remove.remove_from(part, numbers, where) if len(numbers) < len(part.edits) else None
    return [records[index] for index in sorted(chosen)]


def _remove_batches(saved: SavedEdits, parts: list[EditsPart | None], batch: int) -> list[EditRecord]:
    """Take later batches out of the part whose method allows it, in place; return their edits' records."""
    where = str(saved.path)
    methods = _parts_of(saved, "remove_batches", "edits, so no batches;", "batch by batch")
    if len(methods) > 1:
        names = " and ".join(method.name for method in methods.values())
        raise RunError(f"{where}: holds edits of {names}, each with batches of its own; which are meant is not clear")
    ((number, method),) = methods.items()
    before = parts[number]
    if before is None:
        return []
    assert method.remove_batches is not None
    after = method.remove_batches.first_batches(before, batch, where)
    parts[number] = after
    return [EditRecord.from_dict(edit, where) for edit in before.edits[len(after.edits) :]]


def _parts_of(saved: SavedEdits, port: str, missing: str, how: str) -> dict[int, EditMethod]:
    """Return the numbers of the parts whose methods have a port, and the methods.

    Args:
        saved: the folder.
        port: the port's name.
        missing: what to say that a folder without such parts lacks, for the message.
        how: how a method with the port takes edits out, for the message.

    Raises:
        RunError: there are none; the message says which methods' edits could be taken out so, and why these can't.
    """

    def able(method: EditMethod) -> bool:
        return getattr(method, port) is not None

    methods = {n: method_of(name, saved.path) for n, (name, _) in enumerate(saved.parts)}
    found = {n: method for n, method in methods.items() if able(method)}
    if not found:
        names = " or ".join(method.name for method in get_plugins().methods if able(method))
        reason = next((_reason(method, port, how) for method in methods.values()), "")
        raise RunError(f"{saved.path}: holds no {names} {missing} {reason}".rstrip(" ;"))
    return found


def _reason(method: EditMethod, port: str, how: str) -> str:
    """Return why a method lacks a port, and what it has instead."""
    return method.reasons.get(port, f"{method.name}'s edits can't be taken back {how}")
