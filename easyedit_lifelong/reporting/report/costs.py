"""What the edits of a run cost: time, space on disk, memory, and whether they can be rolled back."""

from __future__ import annotations

from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import DISK, MEMORY, Score, seconds_row
from easyedit_lifelong.reporting.units import byte_text
from easyedit_lifelong.runs.memory_use import peak_while_editing, saved_bytes_per_edit

FAILED, BATCH, ROLLBACK = "failed", "batch", "rollback"


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
    return saved_bytes_per_edit(run.folder, run.n_edits)


def peak_memory(run: RunFiles) -> int | None:
    """Return the highest use of memory during the edits, in bytes; None if it isn't known."""
    return peak_while_editing(run.journal)
