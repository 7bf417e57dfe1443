"""The outcome of a staged search: the chosen values, and the text, tables and plots that show why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from easyedit_lifelong.calibration.held_out_records import HeldOutRecords
from easyedit_lifelong.calibration.staged_search import START, Budget, SearchResult
from easyedit_lifelong.calibration.trials import SCORES, Trial, TrialLog
from easyedit_lifelong.calibration.values_text import values_text
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, PlotPanel, PlotSeries, TextTable
from easyedit_lifelong.plurals import counted

_MARK = " ←"
_SHOWN_TRIALS = 10
"""Number of trials in the table for a terminal."""


def outcome_of(
    hparams: Any,
    result: SearchResult,
    log: TrialLog,
    budget: Budget,
    records: HeldOutRecords,
    unedited: Mapping[str, float],
) -> CalibrationOutcome:
    """Return the outcome of a search.

    Args:
        hparams: the hyperparameters that it began with.
        result: its result.
        log: its trials.
        budget: its budget.
        records: the records that were edited.
        unedited: the scores of the unedited model on them.
    """
    best, trials = result.best, log.trials
    chosen = {
        name: best.values.get(name, getattr(hparams, name)) for name in result.tried_fields if hasattr(hparams, name)
    }
    cost = f"{counted(len(trials), 'trial')} in {log.seconds:.0f} s of at most {budget.describe()}"
    table = _table(trials, best, unedited)
    return CalibrationOutcome(
        chosen=chosen,
        counts={"given": records.n_read, "records": len(records.requests), "trials": len(trials)},
        scores={**best.scores, "objective": best.objective},
        evidence=f"{records.described}; {cost}",
        verdict=_verdict(result, trials, len(records.requests)),
        tables=[table],
        short_tables=[_short_table(trials, best, unedited)],
        panels=_panels(trials, best),
        caption="Objective and scores of each trial; circles: the chosen one",
        rows=[_row(trial, trial is best) for trial in trials],
    )


def _verdict(result: SearchResult, trials: Sequence[Trial], n_edits: int) -> list[str]:
    """Return the sentences that say what was chosen, how sure that is, and what was not tried."""
    best, start = result.best, trials[0]
    lines = [
        "Objective: the harmonic mean of reliability, generality and locality (teacher-forced) after "
        f"{counted(n_edits, 'edit')} made in one loop."
    ]
    if best is start:
        lines.append(f"No trial was better than the values to begin with: {scores_text(start)}.")
    else:
        lines.append(
            f"Chosen: trial {best.number}, {values_text(best.values)}: {scores_text(best)}. The values to begin with: "
            f"{scores_text(start)}."
        )
    if best.objective == 0:
        lines.append("In every trial some score is 0, so the arithmetic mean of the scores decided.")
    else:
        step = _one_answer(best, n_edits)
        near = sum(trial is not best and best.objective - trial.objective <= step for trial in trials)
        others = f"{near} other {'trial is' if near == 1 else 'trials are'} within that of the best"
        lines.append(f"One answer to a paraphrase more or less changes the objective by up to {step:.3f}: {others}.")
    if result.ended_in:
        lines.append(
            f"The budget ended in the stage {result.ended_in!r}; --resume with a larger budget continues there."
        )
    return lines


def _one_answer(trial: Trial, n_edits: int) -> float:
    """Return how much the objective would change if the answer to one more paraphrase were right, or to one less."""
    present = trial.scores["generality"]
    generality = present + 1 / n_edits if present + 1 / n_edits <= 1 else present - 1 / n_edits
    other = dataclasses.replace(trial, scores={**trial.scores, "generality": generality})
    return abs(other.objective - trial.objective)


def scores_text(trial: Trial) -> str:
    """Return the scores of a trial as text."""
    scores = " / ".join(f"{trial.scores[name]:.3f}" for name in SCORES) if trial.scores else "none"
    return f"objective {trial.objective:.3f} ({scores})"


def _table(trials: Sequence[Trial], best: Trial, unedited: Mapping[str, float]) -> TextTable:
    """Return the table of all trials, with the scores of the unedited model in its first row."""
    rows = [["", "unedited", "", *_score_cells(unedited), "", "", ""]]
    for trial in trials:
        cost = [str(trial.n_failed), f"{trial.seconds:.1f}"]
        rows.append([str(trial.number), trial.stage, *_cells(trial, trial is best), *cost])
    title = "Scores after the edits of each trial, teacher-forced; higher is better"
    return TextTable(title, ["trial", "stage", "values", *SCORES, "objective", "failed", "seconds"], rows, left=3)


def _short_table(trials: Sequence[Trial], best: Trial, unedited: Mapping[str, float]) -> TextTable:
    """Return the table of the best trials and of the first one, the best first."""
    ranked = sorted(trials, key=lambda trial: trial.rank, reverse=True)
    shown = [trial for place, trial in enumerate(ranked) if place < _SHOWN_TRIALS or trial.stage == START]
    rows = [[str(trial.number), *_cells(trial, trial is best)] for trial in shown]
    rows.append(["", "unedited", *_score_cells(unedited), ""])
    best_of = f"The best of {counted(len(trials), 'trial')}"
    title = f"{best_of}: reliability, generality, locality, teacher-forced; higher is better"
    return TextTable(title, ["trial", "values", "rel.", "gen.", "loc.", "objective"], rows, left=2)


def _cells(trial: Trial, is_best: bool) -> list[str]:
    """Return the cells of a trial's values, scores and objective."""
    values = trial.problem or values_text(trial.values) or "the values to begin with"
    return [values, *_score_cells(trial.scores), f"{trial.objective:.3f}{_MARK if is_best else ''}"]


def _score_cells(scores: Mapping[str, float]) -> list[str]:
    """Return the cells of scores; dashes if there are none."""
    return [f"{scores[name]:.3f}" if scores else "-" for name in SCORES]


def _panels(trials: Sequence[Trial], best: Trial) -> list[PlotPanel]:
    """Return the plots: the objective of each trial by stage, and the three scores of each trial."""
    stages = list(dict.fromkeys(trial.stage for trial in trials))
    by_stage = [
        PlotSeries(
            [(float(trial.number), trial.objective) for trial in trials if trial.stage == stage],
            "values to begin with" if stage == START else stage,
            number,
            "points",
        )
        for number, stage in enumerate(stages)
    ]
    best_so_far = [
        (float(trial.number), max(earlier.objective for earlier in trials[: position + 1]))
        for position, trial in enumerate(trials)
    ]
    scored = [trial for trial in trials if trial.scores]
    by_score = [
        PlotSeries([(float(trial.number), trial.scores[name]) for trial in scored], name, number, "points")
        for number, name in enumerate(SCORES)
    ]
    x = float(best.number)
    return [
        PlotPanel(
            "Objective (harmonic mean of the scores)",
            "trial",
            [*by_stage, PlotSeries(best_so_far, "best so far", len(stages), "dotted")],
            (x, best.objective),
        ),
        PlotPanel("Scores", "trial", by_score, (x, best.scores["generality"]), y_range=(-0.03, 1.03)),
    ]


def _row(trial: Trial, chosen: bool) -> dict[str, Any]:
    """Return a trial as a row of a CSV file."""
    return {
        "trial": trial.number,
        "stage": trial.stage,
        "values": values_text(trial.values),
        **{name: trial.scores.get(name, "") for name in SCORES},
        "objective": trial.objective,
        "n_edits": trial.n_edits,
        "n_failed": trial.n_failed,
        "seconds": trial.seconds,
        "chosen": int(chosen),
        "problem": trial.problem,
    }
