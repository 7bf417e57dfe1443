"""What the edits of a run cost: time, space on disk, memory, and whether they can be rolled back."""

from __future__ import annotations

from pathlib import Path

from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.reporting.report.read import RunFiles
from easyedit_lifelong.reporting.report.score_rows import DISK, MEMORY, Score, seconds_row
from easyedit_lifelong.runs.run_folder import STATE

FAILED, BATCH, ROLLBACK = "failed", "batch", "rollback"

_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def cost_rows(run: RunFiles) -> list[Score]:
    """Return the failed edits, the batch size and the costs of a run, those that are known."""
    rows = [Score(FAILED, str(run.n_failed), number=run.n_failed)]
    size = batch_size(run)
    rows += [] if size is None else [Score(BATCH, str(size), number=size)]
    rows += seconds_row(run)
    for name, number in ((DISK, bytes_per_edit(run)), (MEMORY, peak_memory(run))):
        rows += [] if number is None else [Score(name, byte_text(number), number=number)]
    rollback = run.setting("rollback")
    return rows + ([Score(ROLLBACK, rollback)] if isinstance(rollback, str) else [])


def batch_size(run: RunFiles) -> int | None:
    """Return the number of edits that the method gets in one call; None if it isn't known."""
    if run.setting("loop") == "lifelong":
        return 1
    size = run.setting("batch_size") or run.hparams.get("batch_size")
    return size if isinstance(size, int) else None


def bytes_per_edit(run: RunFiles) -> float | None:
    """Return the size of the saved edits on disk, divided by their number; None if the run saved none."""
    size = _size_of_latest(run.folder / STATE)
    return size / run.n_edits if size and run.n_edits else None


def peak_memory(run: RunFiles) -> int | None:
    """Return the highest use of memory during the edits, in bytes; None if it isn't known."""
    return max((int(e["peak_memory"]) for e in run.journal if is_number(e.get("peak_memory"))), default=None)


def byte_text(number: float) -> str:
    """Return a number of bytes as text, such as ``1.42 GB`` (10⁹ bytes)."""
    unit = next((unit for unit in _UNITS if number < 999.5 * _UNITS[unit]), "GB")
    return f"{number / _UNITS[unit]:.3g} {unit}"


def _size_of_latest(state: Path) -> int:
    """Return the size of a state folder in bytes. Of snapshots, only the latest counts, since it has all edits."""
    paths = sorted(path for path in state.glob("*") if not path.name.startswith("."))
    files = [path for path in paths if path.is_file()]
    for latest in [path for path in paths if path.is_dir()][-1:]:
        files += [path for path in latest.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)
