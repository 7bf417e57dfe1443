"""The scores and costs of compared runs as data: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from easyedit_lifelong.reporting.report import costs
from easyedit_lifelong.reporting.report.comparison_table import UNEDITED, n_scored, unedited_scores
from easyedit_lifelong.reporting.report.run_entries import sort_names
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import name_of_before

_COSTS = ("failed", "batch_size", "seconds_per_edit", "bytes_per_edit", "peak_memory", "rollback")


def comparison_csv(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    """Return a CSV table with a row for the unedited model and one for each run, without columns that are empty.

    Args:
        runs: the runs.
        names: their names.
    """
    scores_of_runs = sort_names(name for run in runs for name in run.scores() if not name.endswith("_before"))
    unedited, scored = unedited_scores(runs), {n_scored(run) for run in runs}
    rows: list[dict[str, Any]] = [
        {
            "run": UNEDITED,
            "edits": 0,
            "scored": min(scored) if len(scored) == 1 else None,
            **{name: unedited.get(name_of_before(name)) for name in scores_of_runs},
        }
    ]
    rows += [
        {"run": name, "edits": run.n_edits, "scored": n_scored(run), **run.scores(), **_costs(run)}
        for run, name in zip(runs, names, strict=True)
    ]
    columns = ["run", "edits", "scored", *scores_of_runs, *_COSTS]
    columns = [column for column in columns if any(row.get(column) is not None for row in rows)]
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def comparison_json(runs: Sequence[RunFiles], names: Sequence[str]) -> str:
    """Return all scores, intervals, costs and curves of runs as JSON, and the scores of the unedited model.

    Args:
        runs: the runs.
        names: their names.
    """
    entries = [
        {
            "run": name,
            "method": run.method_name,
            "model": run.model,
            "data": run.data,
            "folder": str(run.folder),
            "finished": run.finished,
            "edits": run.n_edits,
            "scored": n_scored(run),
            "scores": run.scores(),
            "intervals": run.intervals(),
            **_costs(run),
            "curve": run.curve,
        }
        for run, name in zip(runs, names, strict=True)
    ]
    content = {UNEDITED: unedited_scores(runs), "runs": entries}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _costs(run: RunFiles) -> dict[str, Any]:
    """Return what the edits of a run cost, by the names of :data:`_COSTS`; None for what isn't known."""
    return {
        "failed": run.n_failed,
        "batch_size": costs.batch_size(run),
        "seconds_per_edit": run.timing.get("seconds_per_edit"),
        "bytes_per_edit": costs.bytes_per_edit(run),
        "peak_memory": costs.peak_memory(run),
        "rollback": run.setting("rollback"),
    }
