"""The folders of both forms of the demo: they may replace those of an earlier demo, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from easyedit_lifelong.atomic import delete_leftovers
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import inspect_edits
from easyedit_lifelong.edits.edits_folder import NEW_TENSORS
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.folder_lock import LOCK
from easyedit_lifelong.parsing import parse_yaml
from easyedit_lifelong.runs.run_config import REQUESTS, RETENTION
from easyedit_lifelong.runs.run_folder import CONFIG

DATA_NAME = "sample facts (CounterFact form)"
"""The name of a demo's data, by which its runs are recognised."""

_WRITTEN_FIRST = {LOCK, REQUESTS, RETENTION, NEW_TENSORS}
"""The files that runs and saved edits have before the file that says what they hold."""


def check_previous_run(folder: Path) -> None:
    """Check that a folder is empty or holds an earlier demo's run.

    Raises:
        RunError: the folder holds other files.
    """
    config = folder / CONFIG
    try:
        written = parse_yaml(config.read_text(encoding="utf-8")) if config.is_file() else None
    except ValueError:
        written = None
    data = written.get("data") if isinstance(written, dict) else None  # a mapping; in old versions, the name itself
    if data == DATA_NAME or (isinstance(data, dict) and data.get("name") == DATA_NAME):
        return
    _check_empty(folder)


def check_previous_edits(folder: Path, facts: Collection[EditRequest]) -> None:
    """Check that a folder is empty or holds edits of a demo's facts and no others.

    Raises:
        RunError: the folder holds other files or edits.
    """
    try:
        parts = inspect_edits(folder).parts if folder.exists() else []
    except RunError:
        parts = []
    prompts = {edit["prompt"] for part in parts for edit in part.edits}
    if not prompts or not prompts <= {fact.prompt for fact in facts}:
        _check_empty(folder)


def _check_empty(folder: Path) -> None:
    """Check that a folder has no files, or only those that a demo writes first and that was killed then."""
    if not folder.exists():
        return
    if folder.is_dir():
        delete_leftovers(folder)
    if not folder.is_dir() or any(path.name not in _WRITTEN_FIRST for path in folder.iterdir()):
        raise RunError(f"{folder}: holds files that aren't a demo's. Choose another folder with --out.")


def delete_folders(*folders: Path) -> None:
    """Delete folders, if they exist."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
