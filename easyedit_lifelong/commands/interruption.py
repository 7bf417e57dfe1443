"""What an interrupted command says about its files, and how to continue."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.paths import expanded_path

if TYPE_CHECKING:
    from easyedit_lifelong.runs.plan import Plan

ONLY_READ = {"doctor", "plugins", "generate", "inspect", "push"}
"""Commands that write no files."""

_WRITE_AT_END = {"attribute", "changes", "edit", "export", "new-method", "pull", "scope"}
"""Commands that write all their files in one step at the end."""

_CONTINUE = {"compare", "covariance", "rescore"}
"""Commands that continue where they were interrupted, without ``--resume``."""

RESUMED_FROM: Mapping[str, tuple[str, ...]] = {
    "lifelong": ("config.yaml",),
    "consecutive": ("config.yaml",),
    "run": ("config.yaml", "compare.yaml"),
    "calibrate": ("calibration.json",),
    "train": ("training.jsonl", "checkpoint.safetensors"),
    "locate": ("locate.json",),
}
"""Commands that continue with ``--resume``, and the files in ``--out`` of which one must exist for that."""


_ON_DISK = "interrupted; everything reported as done is on disk"


def interruption_text(verb: str, arguments: argparse.Namespace) -> str:
    """Return what an interrupted command says: what is on disk, and how to continue.

    Args:
        verb: the command.
        arguments: its arguments. A command with a default folder that depends on other arguments sets ``out`` to it. A
            command that executes runs sets ``plans`` to their plans.
    """
    lost = [plan for plan in getattr(arguments, "plans", ()) if plan.is_lost]
    if lost and verb in RESUMED_FROM:
        return f"{_ON_DISK}. {_lost_text(lost)}"
    text = _text(verb, arguments)
    return f"{text}. {_lost_text(lost)}" if lost else text


def _text(verb: str, arguments: argparse.Namespace) -> str:
    """Return :func:`interruption_text` for a command whose runs, if it has any, can be resumed."""
    if verb in ONLY_READ:
        return "interrupted"
    if verb in _WRITE_AT_END:
        return "interrupted; nothing was written"
    if verb == "sweep":
        return "interrupted; the same command resumes the cells that are not finished"
    if verb in _CONTINUE:
        return f"{_ON_DISK}, and the same command continues"
    if verb not in RESUMED_FROM:
        return _ON_DISK
    if arguments.out is None or not _is_resumable(arguments.out, RESUMED_FROM[verb]):
        return "interrupted before there was anything to resume; the same command begins again"
    if verb == "train":
        return "interrupted; the same command with --resume continues from the last checkpoint"
    return f"{_ON_DISK}, and the same command with --resume continues"


def _lost_text(plans: Sequence[Plan]) -> str:
    """Return what to do about interrupted runs whose methods can't save their edits."""
    methods = ", ".join(dict.fromkeys(plan.method.name for plan in plans))
    folders = ", ".join(str(plan.out) for plan in plans)
    return (
        f"{methods} can't save edits, so what was interrupted can't be continued: delete {folders}, and the same "
        "command begins again there"
    )


def _is_resumable(folder: Path | str, files: tuple[str, ...]) -> bool:
    """Return whether a folder has one of the files from which a command is resumed."""
    try:
        return any((expanded_path(folder, RunError) / name).is_file() for name in files)
    except RunError:  # the folder of an unknown user
        return False
