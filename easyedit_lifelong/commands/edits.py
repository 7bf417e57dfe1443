"""The commands on folders of edits: `inspect`, `rollback` and `merge`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from easyedit_lifelong.commands.saved_edits import amount_of
from easyedit_lifelong.edits.inspect_folder import inspect_edits
from easyedit_lifelong.edits.merge import merge_edits
from easyedit_lifelong.edits.remove import rollback_folder
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.reporting.console_tables import say

_NEAR_SHOWN = 20
_ASKED = "prompt → target"
_PIPED_WIDTH = 120


def inspect_session(folder: Path, *, nearly: float, limit: int, as_json: bool) -> None:
    """Show what a folder of edits holds.

    Args:
        folder: the folder.
        nearly: up to which nearness two keys are listed.
        limit: show the last so many edits of each part; 0 for all.
        as_json: print everything as JSON instead.

    Raises:
        LifelongError: the folder can't be used.
    """
    found = inspect_edits(folder, nearly)
    console = _console()
    if as_json:
        _json(console, found.to_dict())
        return
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    for line in (
        f"{folder}: {amount_of(found.count)}, saved {found.saved}", f"model {found.model}, {found.fingerprint[:12]}…",
        f"written with {versions}",
    ):  # fmt: skip
        say(console, line)
    for part in found.parts:
        say(console, "")
        _part(console, part, limit)


def _part(console: Console, part: InspectedPart, limit: int) -> None:
    settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
    title = f"{part.method} on {', '.join(part.layers)} ({settings}): {amount_of(len(part.edits))}"
    first = max(0, len(part.edits) - limit) if limit else 0
    rows = []
    for number, edit in enumerate(part.edits[first:], start=first + 1):
        replaced = f" (replaced by edit {edit['replaced_by']})" if edit.get("replaced_by") else ""
        asked = f"{edit['prompt']} → {edit['target_new']}{replaced}"
        values = [_cell(edit.get(name)) for name in part.columns.values()]
        rows.append([str(number), str(edit["case_id"]), asked, edit["time"][:16].replace("T", " "), *values])
    _table(console, rows, ["edit", "case", _ASKED, "made (UTC)", *part.columns], title)
    if first > 0:
        say(console, f"… and {first} before these: --limit 0 shows all, --json has them, too.")
    if part.near:
        near = [
            [" and ".join(f"{number} (case {part.edits[number - 1]['case_id']})" for number in pair["edits"]),
             _cell(pair["distance"]), _cell(pair["nearness"]), "yes" if pair["same_target"] else "no"]
            for pair in part.near[:_NEAR_SHOWN]
        ]  # fmt: skip
        say(console, "")
        shown = f", {_NEAR_SHOWN} of {len(part.near)}" if len(part.near) > _NEAR_SHOWN else ""
        title = f"keys that collide (nearness up to 1) or nearly do{shown}"
        _table(console, near, ["edits", "distance", "nearness", "same target"], title)
    if part.batches:
        batches = [
            [str(number), str(batch["edits"]), ", ".join(f"{alpha:.3g}" for alpha in batch["alphas"].values())]
            for number, batch in enumerate(part.batches, start=1)
        ]
        say(console, "")
        _table(console, batches, ["batch", "edits", "alpha of each layer"], "batches")


def rollback_session(
    folder: Path, *, cases: Sequence[str], prompt: str | None, batch: int | None, out: Path | None, as_json: bool
) -> None:
    """Take edits out of a folder, and say which.

    Raises:
        LifelongError: it can't be done; the folder is as it was.
    """
    done = rollback_folder(folder, cases=cases, prompt=prompt, batch=batch, out=out)
    console = _console()
    if as_json:
        removed = [record.to_dict() for record in done.removed]
        _json(console, {"folder": str(done.folder), "removed": removed, "left": done.left})
        return
    if done.removed:
        rows = [[str(one.case_id), f"{one.prompt} → {one.target_new}"] for one in done.removed]
        _table(console, rows, ["case", _ASKED], "taken out")
    say(console, f"{amount_of(len(done.removed))} taken out, {done.left} left: {done.folder}")


def merge_session(folders: Sequence[Path], out: Path, *, as_json: bool) -> None:
    """Merge folders of edits, and say what met what.

    Raises:
        LifelongError: they can't be merged; nothing is written.
    """
    report = merge_edits(folders, out)
    console = _console()
    if as_json:
        _json(console, report.to_dict())
        return
    if report.conflicts:
        rows = [
            [str(one.case_id), one.folder, one.decision, str(one.with_case_id), one.with_folder, _cell(one.distance)]
            for one in report.conflicts
        ]
        headers = ["case", "of", "decision", "upon case", "of", "distance"]
        _table(console, rows, headers, "edits that met another folder's")
    if report.renamed:
        rows = [[str(one.before), one.folder, one.after] for one in report.renamed]
        _table(console, rows, ["case", "of", "is now"], "cases whose ids were taken")
    say(
        console,
        f"{amount_of(report.edits)}, {report.keys} keys of {len(report.folders)} folders, {len(report.conflicts)} met "
        f"another folder's, {report.duplicates} were in more than one: {report.out}",
    )


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, _PIPED_WIDTH))


def _table(console: Console, rows: Sequence[Sequence[str]], headers: Sequence[str], title: str) -> None:
    """Print a table in which numbers stay on one line, and texts don't."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for number, header in enumerate(headers):
        digits = bool(rows) and all(_is_number(row[number]) for row in rows)
        folds = header in (_ASKED, "of", "edits")
        table.add_column(header, justify="right" if digits else "left", overflow="fold", no_wrap=not folds)
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))  # Text: brackets aren't markup
    console.print(table)


def _is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _json(console: Console, values: Mapping[str, Any]) -> None:
    console.file.write(json.dumps(values, indent=1, ensure_ascii=False) + "\n")
