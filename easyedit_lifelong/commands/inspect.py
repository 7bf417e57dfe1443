"""``inspect``: show the contents of a folder of saved edits; neither a model nor EasyEdit is needed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from easyedit_lifelong.commands.option_types import count, positive_float
from easyedit_lifelong.commands.saved_edits import amount_of
from easyedit_lifelong.edits.inspect_folder import inspect_edits
from easyedit_lifelong.methods.base import InspectedPart
from easyedit_lifelong.reporting.console_tables import print_json, say
from easyedit_lifelong.reporting.folder_tables import EDIT, cell, text_table, wide_console

_NEAR_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder and how much of it is shown."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder of edits")
    add(
        "--nearly",
        type=positive_float,
        default=1.25,
        metavar="X",
        help="list keys whose distance is up to X times the sum of their radii (default 1.25)",
    )
    add("--limit", type=count, default=50, metavar="N", help="show the last N edits (default 50; 0: all)")
    add("--json", action="store_true", help="print everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the contents of the folder.

    Raises:
        LifelongError: the folder cannot be used.
    """
    found = inspect_edits(arguments.folder, arguments.nearly)
    console = wide_console()
    if arguments.json:
        print_json(console, found.to_dict())
        return 0
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    say(console, f"{arguments.folder}: {amount_of(found.count)}, saved {found.saved}")
    say(console, f"model {found.model}, {found.fingerprint[:12]}…")
    say(console, f"written with {versions}")
    for part in found.parts:
        say(console, "")
        _show_edits(console, part, arguments.limit)
        _show_near(console, part)
        _show_batches(console, part)
    return 0


def _show_edits(console: Console, part: InspectedPart, limit: int) -> None:
    """Print the last edits of a part; all of them if ``limit`` is 0."""
    settings = ", ".join(f"{name} {value}" for name, value in part.settings.items())
    title = f"{part.method} on {', '.join(part.layers)} ({settings}): {amount_of(len(part.edits))}"
    first = max(0, len(part.edits) - limit) if limit else 0
    rows = []
    for number, edit in enumerate(part.edits[first:], start=first + 1):
        replaced = f" (replaced by edit {edit['replaced_by']})" if edit.get("replaced_by") else ""
        text = f"{edit['prompt']} → {edit['target_new']}{replaced}"
        values = [cell(edit.get(name)) for name in part.columns.values()]
        rows.append([str(number), str(edit["case_id"]), text, edit["time"][:16].replace("T", " "), *values])
    text_table(console, rows, ["edit", "case", EDIT, "made (UTC)", *part.columns], title)
    if first > 0:
        say(console, f"… and {first} before these: --limit 0 shows all, --json has them, too.")


def _show_near(console: Console, part: InspectedPart) -> None:
    """Print the pairs of keys that collide or nearly do."""
    if not part.near:
        return
    rows = [
        [
            " and ".join(f"{number} (case {part.edits[number - 1]['case_id']})" for number in pair["edits"]),
            cell(pair["distance"]),
            cell(pair["nearness"]),
            "yes" if pair["same_target"] else "no",
        ]
        for pair in part.near[:_NEAR_SHOWN]
    ]
    shown = f", {_NEAR_SHOWN} of {len(part.near)}" if len(part.near) > _NEAR_SHOWN else ""
    say(console, "")
    text_table(
        console,
        rows,
        ["edits", "distance", "nearness", "same target"],
        f"keys that collide (nearness up to 1) or nearly do{shown}",
    )


def _show_batches(console: Console, part: InspectedPart) -> None:
    """Print the batches of a part, with what the method says of each."""
    if not part.batches:
        return
    rows = [
        [str(number), str(batch["edits"]), *(_joined(batch[name]) for name in part.batch_columns.values())]
        for number, batch in enumerate(part.batches, start=1)
    ]
    say(console, "")
    text_table(console, rows, ["batch", "edits", *part.batch_columns], "batches")


def _joined(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values.values())
