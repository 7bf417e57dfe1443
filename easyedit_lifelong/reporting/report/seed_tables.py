"""Tables of runs with several seeds: the mean of each score, and its standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from easyedit_lifelong.reporting.report.comparison_table import (
    COSTS,
    Comparison,
    Row,
    row_of,
    tables_of,
    unedited_cells,
)
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import DISK, MEMORY, SECONDS, Score, shown
from easyedit_lifelong.reporting.units import byte_text


def seed_tables(runs: Mapping[str, Sequence[RunFiles]]) -> list[Comparison]:
    """Return the tables that compare methods, with a row for each method.

    Args:
        runs: the runs of each method, which differ in nothing but their seed, by the method's label.
    """
    rows = [mean_row(label, of_method) for label, of_method in runs.items()]
    all_runs = [run for of_method in runs.values() for run in of_method]
    return tables_of(rows, all_runs, _unedited_means(all_runs))


def _unedited_means(runs: Sequence[RunFiles]) -> dict[str, Score]:
    """Return the unedited model's scores as cells: of scores in which seeds differ, mean and standard deviation."""
    by_seed: dict[object, list[RunFiles]] = {}
    for run in runs:
        by_seed.setdefault(run.hparams.get("seed") or 0, []).append(run)
    cells = [unedited_cells(of_seed) for of_seed in by_seed.values()]
    means: dict[str, Score] = {}
    for name in cells[0]:
        of_name = [of_seed[name] for of_seed in cells if name in of_seed]
        if len(of_name) < len(cells):
            continue
        differs = len({cell.number for cell in of_name}) > 1
        score = _mean_score(of_name) if differs else of_name[0]
        means |= {} if score is None else {name: score}
    return means


def mean_row(label: str, runs: Sequence[RunFiles]) -> Row:
    """Return the row of runs that differ in nothing but their seed.

    Of one run, it has the scores with their intervals. Of several, it has the means of the scores and costs that all
    runs have, the scores with the standard deviation over seeds; and the smallest numbers of edits and of scored edits.

    Args:
        label: the label of the method.
        runs: the runs, at least one.
    """
    rows = [row_of(run, label) for run in runs]
    if len(rows) == 1:
        return rows[0]
    shared = [name for name in rows[0].scores if all(name in row.scores for row in rows)]
    scores = {name: score for name in shared if (score := _mean_score([row.scores[name] for row in rows])) is not None}
    n_scored = [row.scored for row in rows if row.scored is not None]
    return Row(f"{label}, {len(rows)} seeds", min(row.edits for row in rows), min(n_scored, default=None), scores)


def _mean_score(scores: Sequence[Score]) -> Score | None:
    """Return the mean of a score or cost over runs; of what is no number, its value, or None if it differs."""
    name, numbers = scores[0].name, [score.number for score in scores if score.number is not None]
    if len(numbers) < len(scores):
        return scores[0] if len({score.value for score in scores}) == 1 else None
    mean = statistics.fmean(numbers)
    if name in COSTS:
        return Score(name, _cost_text(name, mean), number=mean)
    return Score(name, f"{shown(mean, name)} ± {shown(statistics.stdev(numbers), name)}", number=mean)


def _cost_text(name: str, mean: float) -> str:
    """Return the mean of a cost as text, in the form that the costs of single runs have."""
    if name in (DISK, MEMORY):
        return byte_text(mean)
    return f"{mean:.2f}" if name == SECONDS else f"{mean:.3g}"
