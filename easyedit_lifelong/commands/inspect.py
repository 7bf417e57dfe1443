"""The command ``inspect``: show the contents of a folder of saved edits, without a model or EasyEdit."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from rich.console import Console

from easyedit_lifelong.edits.inspect_folder import inspect_edits
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import print_json, print_line
from easyedit_lifelong.reporting.folder_tables import EDIT, cell_text, text_table, wide_console

_MAX_PAIRS_SHOWN = 20


def run(arguments: argparse.Namespace) -> int:
    """Print the contents of the folder.

    Raises:
        LifelongError: the folder can't be used.
    """
    contents = inspect_edits(arguments.folder, arguments.nearly)
    console = wide_console()
    if arguments.json:
        print_json(console, contents.to_dict())
        return 0
    versions = ", ".join(f"{name} {version}" for name, version in contents.versions.items())
    print_line(console, f"{arguments.folder}: {counted(contents.count, 'edit')}, saved {contents.saved}")
    print_line(console, f"model {contents.model}, {contents.fingerprint[:12]}…")
    print_line(console, f"written with {versions}")
    for part in contents.parts:
        print_line(console, "")
        _show_edits(console, part, arguments.limit)
        _show_near(console, part)
        _show_batches(console, part)
    return 0


def _show_edits(console: Console, part: InspectedPart, limit: int) -> None:
    """Print the last edits of a part; all of them if ``limit`` is 0."""
    settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
    title = f"{part.method} on {', '.join(part.layers)} ({settings}): {counted(len(part.edits), 'edit')}"
    first = max(0, len(part.edits) - limit) if limit else 0
    rows = []
    for number, edit in enumerate(part.edits[first:], start=first + 1):
        replaced = f" (replaced by edit {edit['replaced_by']})" if edit.get("replaced_by") else ""
        prompt = f"{edit['question']} (in a chat)" if edit.get("question") is not None else edit["prompt"]
        text = f"{prompt} → {edit['target_new']}{replaced}"
        values = [cell_text(edit.get(name)) for name in part.columns.values()]
        rows.append([str(number), str(edit["case_id"]), text, edit["time"][:16].replace("T", " "), *values])
    text_table(console, rows, ["edit", "case", EDIT, "made (UTC)", *part.columns], title)
    if first > 0:
        print_line(console, f"… and {first} before these. To see all edits, use --limit 0 or --json.")


def _show_near(console: Console, part: InspectedPart) -> None:
    """Print the pairs of keys whose radii overlap, or nearly do."""
    if not part.near:
        return
    rows = [
        [
            " and ".join(f"{number} (case {part.edits[number - 1]['case_id']})" for number in pair["edits"]),
            cell_text(pair["distance"]),
            cell_text(pair["nearness"]),
            "yes" if pair["same_target"] else "no",
        ]
        for pair in part.near[:_MAX_PAIRS_SHOWN]
    ]
    shown = f", {_MAX_PAIRS_SHOWN} of {len(part.near)}" if len(part.near) > _MAX_PAIRS_SHOWN else ""
    print_line(console, "")
    text_table(
        console,
        rows,
        ["edits", "distance", "nearness", "same target"],
        f"keys that collide (nearness up to 1) or nearly do{shown}",
    )


def _show_batches(console: Console, part: InspectedPart) -> None:
    """Print the batches of a part, with the columns that the method defines."""
    if not part.batches:
        return
    rows = [
        [str(number), str(batch["edits"]), *(_format_values(batch[name]) for name in part.batch_columns.values())]
        for number, batch in enumerate(part.batches, start=1)
    ]
    print_line(console, "")
    text_table(console, rows, ["batch", "edits", *part.batch_columns], "batches")


def _format_values(values: Mapping[str, float]) -> str:
    """Return a batch's number for each layer as the text of a cell."""
    return ", ".join(f"{value:.3g}" for value in values.values())
