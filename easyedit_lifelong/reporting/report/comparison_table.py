"""The tables that compare runs: which runs and scores they have, and which values are the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from easyedit_lifelong.reporting.report.costs import BATCH, FAILED, ROLLBACK, cost_rows
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import (
    DISK,
    MEMORY,
    SECONDS,
    Score,
    best,
    direction,
    main_names,
    name_of_before,
    score_rows,
    shown,
)

UNEDITED = "unedited"
"""The name of the row of the unedited model."""

ARROWS = {"higher": "↑", "lower": "↓"}
_GENERATED = ("generation_match", "generation_match_rephrase")
_CARRIED_OVER = tuple(
    f"{form}_{score}" for form in ("chat", "plain") for score in ("reliability", "generation_match", "contains_match")
)
_CONTINUED = ("old_answer", "continuation_entropy")
_UNCHANGED = ("locality", "relation_specificity", "TRR", "ARR")
_UNRELATED = ("text_perplexity", "capability", "capability_norm")
COSTS = (FAILED, BATCH, SECONDS, DISK, MEMORY, ROLLBACK)


@dataclass(frozen=True)
class Comparison:
    """A table of scores with a row for each run.

    Attributes:
        title: the title of the table.
        caption: what the table shows.
        names: the runs' names.
        edits: number of edits of each run.
        scored: number of edits that the scores of each run are averages over; None if unknown.
        metrics: the columns: names of scores and costs.
        cells: the scores by run, then by metric. A score without a value has empty text.
    """

    title: str
    caption: str
    names: list[str]
    edits: list[int]
    scored: list[int | None]
    metrics: list[str]
    cells: list[list[Score]]


@dataclass(frozen=True)
class Row:
    """A row of a comparison.

    Attributes:
        name: its name.
        edits: the number of edits.
        scored: the number of edits that the scores are averages over.
        scores: the scores and costs, by name.
    """

    name: str
    edits: int
    scored: int | None
    scores: Mapping[str, Score]


def comparison_tables(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Comparison]:
    """Return the tables of the main scores and of the costs of runs; tables and columns without values are left out.

    Args:
        runs: the runs.
        names: their names.
    """
    rows = [row_of(run, name) for run, name in zip(runs, names, strict=True)]
    return tables_of(rows, runs, unedited_cells(runs))


def tables_of(rows: Sequence[Row], runs: Sequence[RunFiles], unedited: Mapping[str, Score]) -> list[Comparison]:
    """Return the tables of the main scores and of the costs; tables and columns without values are left out.

    Args:
        rows: the rows of every table.
        runs: the runs that the rows are about.
        unedited: the scores of the unedited model, by the names under which runs record them.
    """
    main, when = main_names(runs), when_scored(runs)
    answers = " (portability: of answers' tokens)" if "portability" in main else ""
    where = f"of {common([run.model for run in runs])} on {common([run.data or 'unnamed data' for run in runs])}"
    definitions: tuple[tuple[str, str, Sequence[str]], ...] = (
        (
            "Edited facts, teacher-forced",
            f"Shares of target tokens{answers} {where}, {when} (ES: directly after each edit or batch).",
            [name for name in main if name not in (*_GENERATED, *_UNCHANGED, *_UNRELATED)],
        ),
        (
            "Edited facts, generated",
            f"Shares of greedy continuations {where} that begin with the target, {when}.",
            [name for name in main if name in _GENERATED],
        ),
        (
            "Edits asked in another form",
            "The edits' prompts asked in a chat (chat) or, if the edits were made in a chat, as plain prompts (plain): "
            "shares of target tokens (reliability), and of greedy answers that begin with the target or contain it, "
            f"{where}, {when}.",
            _CARRIED_OVER,
        ),
        (
            "What the model writes after its answers",
            f"Shares of continuations of 60 tokens {where} that contain the old answer, and the mean entropy of their "
            f"n-grams after the answer, in bits (low if a text repeats itself), {when}.",
            _CONTINUED,
        ),
        (
            "What the edits must not change",
            f"Agreement with the unedited model (locality, relation specificity) and shares of true answers' tokens "
            f"(TRR, ARR), {where}, {when}.",
            _UNCHANGED,
        ),
        (
            "Text and knowledge unrelated to the edits",
            "Perplexity of a held-out text, and accuracy on multiple-choice questions by log-likelihood, in all "
            f"(capability) and per character (capability_norm), {where}, {when}.",
            _UNRELATED,
        ),
        (
            "Costs",
            "Failed edits; edits in a batch; mean seconds of the method alone; bytes of the saved edits; the highest "
            "use of memory during an edit, the model included; what can be rolled back: single edits, the latest "
            "batches, or all edits at once. Compare times and memory only of runs on the same machine.",
            COSTS,
        ),
    )
    tables = [_compare_rows(rows, unedited, metrics, title, caption) for title, caption, metrics in definitions]
    return [table for table in tables if table.metrics]


def compare(runs: Sequence[RunFiles], names: Sequence[str], metrics: Sequence[str]) -> Comparison:
    """Return the comparison of runs: a row for the unedited model if its scores are known, and one for each run.

    Args:
        runs: the runs.
        names: their names.
        metrics: the columns; those without any value are left out.
    """
    rows = [row_of(run, name) for run, name in zip(runs, names, strict=True)]
    return _compare_rows(rows, unedited_cells(runs), metrics, "", "")


def row_of(run: RunFiles, name: str) -> Row:
    """Return the row of one run."""
    scores = {score.name: score for score in (*score_rows(run), *cost_rows(run))}
    return Row(name, run.n_edits, n_scored(run), scores)


def _compare_rows(
    rows: Sequence[Row], unedited: Mapping[str, Score], metrics: Sequence[str], title: str, caption: str
) -> Comparison:
    """Return a table, with a row for the unedited model if its scores are known.

    Args:
        rows: the other rows.
        unedited: the scores of the unedited model, by the names under which runs record them.
        metrics: the columns; those without any value are left out.
        title: the title of the table.
        caption: what the table shows.
    """
    scores = [row.scores for row in rows]
    columns = [metric for metric in metrics if any(metric in of_run for of_run in scores)]
    cells = [[of_run.get(metric, Score(metric, "")) for metric in columns] for of_run in scores]
    for column, metric in enumerate(columns):
        for row in best(metric, [cells_of_run[column].number for cells_of_run in cells]):
            cells[row][column] = replace(cells[row][column], best=True)
    names, scored, edits = [row.name for row in rows], [row.scored for row in rows], [row.edits for row in rows]
    first = [replace(unedited.get(name_of_before(metric), Score(metric, "")), name=metric) for metric in columns]
    if not any(cell.value for cell in first):
        return Comparison(title, caption, names, edits, scored, columns, cells)
    unedited_scored = scored[0] if len(set(scored)) == 1 else None
    return Comparison(
        title, caption, [UNEDITED, *names], [0, *edits], [unedited_scored, *scored], columns, [first, *cells]
    )


def unedited_scores(runs: Sequence[RunFiles]) -> dict[str, float]:
    """Return the unedited model's scores by the names of the runs' scores, without those in which runs differ."""
    values: dict[str, set[float]] = {}
    for run in runs:
        for name, score in run.scores().items():
            if name.endswith("_before"):
                values.setdefault(name, set()).add(score)
    return {name: scores.pop() for name, scores in values.items() if len(scores) == 1}


def unedited_cells(runs: Sequence[RunFiles]) -> dict[str, Score]:
    """Return the unedited model's scores (:func:`unedited_scores`) as cells of a table."""
    return {name: Score(name, shown(score, name), number=score) for name, score in unedited_scores(runs).items()}


def n_scored(run: RunFiles) -> int:
    """Return the number of edits in the last scores: those of the sample, else all, failed ones included."""
    return run.n_edits + run.n_failed if run.n_sampled is None else run.n_sampled


def when_scored(runs: Sequence[RunFiles]) -> str:
    """Return after which edits the scores of runs were computed, as the end of a sentence."""
    phrases = {False: "after all edits of each run", True: "after each batch of single-round runs"}
    return ", or ".join(phrases[single] for single in sorted({run.is_single_round for run in runs}))


def arrow(metric: str) -> str:
    """Return ↑ if a higher value of a metric is better, ↓ if a lower one is, else empty text."""
    return ARROWS.get(direction(metric), "")


def common(values: Sequence[str]) -> str:
    """Return the value that all have, or all values that differ."""
    return ", ".join(dict.fromkeys(values))
