"""The folders of a demo: they may replace those of an earlier demo, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from easyedit_lifelong.errors import RunError
from easyedit_lifelong.parsing import parse_yaml
from easyedit_lifelong.runs.run_folder import CONFIG


def check_previous(folder: Path, data_name: str) -> None:
    """Check that a folder is empty or holds an earlier demo's run.

    Args:
        folder: the folder.
        data_name: the name of the demo's data, as runs record it.

    Raises:
        RunError: the folder holds other files.
    """
    config = folder / CONFIG
    try:
        written = parse_yaml(config.read_text(encoding="utf-8")) if config.is_file() else None
    except ValueError:
        written = None
    data = written.get("data") if isinstance(written, dict) else None  # a mapping; in old versions, the name itself
    if data == data_name or (isinstance(data, dict) and data.get("name") == data_name):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: holds files that aren't a demo's. Choose another folder with --out.")


def delete_folders(*folders: Path) -> None:
    """Delete folders, if they exist."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
