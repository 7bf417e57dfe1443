"""Take edits back later on: single ones of GRACE, CoachHook's down to a batch; on a model, or in a folder alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyedit_lifelong.edits.edits_folder import INDEX
from easyedit_lifelong.edits.parts import SavedEdits, read_edits, write_edits
from easyedit_lifelong.errors import EditError, RunError
from easyedit_lifelong.methods.base import EditsPart
from easyedit_lifelong.methods.coachhook.config import CoachHookHyperParams
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.porter import first_batches
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.serialized import PackedEdits
from easyedit_lifelong.methods.shared.records import EditRecord, numbers_of_case

GRACE, COACHHOOK = GraceHyperParams.ALG_NAME, CoachHookHyperParams.ALG_NAME

_BATCHES_ONLY = (
    "CoachHook's edits can't be taken back one by one: each batch was solved for upon those before it. "
    "Go back to a whole batch instead (rollback_to_batch, --to-batch)."
)


def rollback_case(model: Any, case_id: int | str, *, prompt: str | None = None) -> list[EditRecord]:
    """Take a case's GRACE edits off a model, as if they had never been entered; all others stay.

    Args:
        model: the edited model.
        case_id: which case; its edits go from every layer that carries them.
        prompt: only its edit of this prompt, where several edits have the same id.

    Returns:
        The records of the edits that were taken off.

    Raises:
        EditError: there is no such GRACE edit, or several of different prompts; or it isn't known what a later
            one was entered with. Then nothing is changed.
    """
    editors = list(GraceEditor.all_of(model).values())
    if not editors:
        coachhook_editor(model)  # says if there are no edits at all
        raise EditError(_BATCHES_ONLY)
    records = [record for editor in editors for record in editor.records]
    wanted = [records[n] for n in numbers_of_case(records, case_id, prompt)]
    for check_only in (True, False):
        for editor in editors:
            editor.take_back(wanted, check_only=check_only)
    return wanted


def rollback_to_batch(model: Any, batch: int) -> None:
    """Take CoachHook's later batches off a model; it is bitwise what it was after that batch.

    Args:
        model: the edited model.
        batch: how many batches to keep, 0 for none.

    Raises:
        EditError: the model carries no CoachHook edits, or not as many batches.
    """
    coachhook_editor(model).back_to(batch)


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
        cases: GRACE: the cases to take out. A text also means the number that it spells.
        prompt: only the cases' edits of this prompt, where several edits have the same id.
        batch: CoachHook: how many batches to keep.
        out: another folder for what is left; by default it replaces what was there, in one step.

    Raises:
        RunError: the folder isn't whole, has no edits of that method, or can't be written.
        EditError: there is no such case or batch, or a case has several prompts; or it isn't known what a later
            edit was entered with.
    """
    if prompt is not None and not cases:
        raise EditError("a prompt says which edit of a case is meant; name the case, too")
    saved = read_edits(Path(folder))
    target = Path(folder) if out is None else Path(out)
    if out is not None and target.resolve() != Path(folder).resolve() and (target / INDEX).exists():
        raise RunError(f"{target}: holds edits already; name another folder")
    where, methods = str(saved.path), [method for method, _ in saved.parts]
    parts: list[EditsPart | None] = [part for _, part in saved.parts]
    removed: list[EditRecord] = []
    if cases:
        if GRACE not in methods:
            raise RunError(f"{where}: holds no GRACE edits. {_BATCHES_ONLY if COACHHOOK in methods else ''}".rstrip())
        removed += _without_cases(saved, parts, cases, prompt)
    if batch is not None:
        if COACHHOOK not in methods:
            raise RunError(
                f"{where}: holds no CoachHook edits, so no batches; GRACE's edits are taken back case by case"
            )
        number = methods.index(COACHHOOK)
        before = saved.parts[number][1]
        after = first_batches(before, batch, where)
        removed += [EditRecord.from_dict(edit, where) for edit in before.edits[len(after.edits) :]]
        parts[number] = after
    left = [(method, part) for method, part in zip(methods, parts, strict=True) if part is not None and part.edits]
    write_edits(target, saved.model, saved.fingerprint, left)
    return FolderRollback(target, removed, sum(len(part.edits) for _, part in left))


def _without_cases(
    saved: SavedEdits, parts: list[EditsPart | None], cases: Sequence[int | str], prompt: str | None
) -> list[EditRecord]:
    """Take cases out of the GRACE parts, in place; return their records."""
    where = str(saved.path)
    packed = {n: PackedEdits.of(part, where) for n, (method, part) in enumerate(saved.parts) if method == GRACE}
    records = [record for edits in packed.values() for record in edits.records]
    wanted: set[int] = set()
    for case in cases:
        known = [record.case_id for record in records if str(record.case_id) == str(case)]
        try:
            wanted |= {id(records[n]) for n in numbers_of_case(records, known[0] if known else case, prompt)}
        except EditError as error:
            raise EditError(f"{where}: {error}") from error
    removed = []
    for n, edits in packed.items():
        numbers = {at for at, record in enumerate(edits.records) if id(record) in wanted}
        removed += [edits.records[at] for at in sorted(numbers)]
        try:
            edits.remove(numbers)
        except EditError as error:
            raise EditError(f"{where}: {error}") from error
        parts[n] = edits.part() if edits.records else None
    return removed
