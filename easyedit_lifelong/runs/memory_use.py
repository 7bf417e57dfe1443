"""What the edits of a run need: memory while editing, and space on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.runs.run_folder import STATE


def memory_summary(
    journal: Iterable[Mapping[str, Any]], process_peak: int | None, folder: Path | None, n_edits: int
) -> dict[str, float]:
    """Return the entry ``memory`` of ``summary.json``, in bytes; what isn't known is left out.

    Args:
        journal: the lines of the journal.
        process_peak: the peak of the process's resident memory.
        folder: the run's folder, if it has one.
        n_edits: the number of edits.

    Returns:
        ``peak_editing``, the highest use of memory during an edit (on CUDA devices, that of the devices);
        ``peak_process``, the highest resident memory of the process, scoring included, since the run began or was
        resumed; and ``saved_per_edit``, the size of the saved edits divided by their number.
    """
    values = {
        "peak_editing": peak_while_editing(journal),
        "peak_process": process_peak,
        "saved_per_edit": None if folder is None else saved_bytes_per_edit(folder, n_edits),
    }
    return {name: value for name, value in values.items() if value is not None}


def peak_while_editing(journal: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the highest use of memory during the edits of a journal, in bytes; None if it isn't known."""
    return max((int(e["peak_memory"]) for e in journal if is_number(e.get("peak_memory"))), default=None)


def saved_bytes_per_edit(folder: Path, n_edits: int) -> float | None:
    """Return the size of a run's saved edits on disk, divided by their number; None if the run saved none."""
    size = _size_of_latest(folder / STATE)
    return size / n_edits if size and n_edits else None


def _size_of_latest(state: Path) -> int:
    """Return the size of a state folder in bytes. Of snapshots, only the latest counts, since it has all edits."""
    paths = sorted(path for path in state.glob("*") if not path.name.startswith("."))
    files = [path for path in paths if path.is_file()]
    for latest in [path for path in paths if path.is_dir()][-1:]:
        files += [path for path in latest.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)
