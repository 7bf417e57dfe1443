"""Scores for tables: their text, their order, and the main ones of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.evaluation.metrics import METRICS
from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.reporting.report.run_entries import Interval, as_mapping, sort_names
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.runs.run_folder import LM_EVAL

MAIN = (
    "ES",
    "ERR",
    "reliability",
    "generality",
    "locality",
    "relation_specificity",
    "portability",
    "TRR",
    "ARR",
    "generation_match",
    "generation_match_rephrase",
    "text_perplexity",
    "capability",
)
"""The main scores, the most important first."""

SECONDS, DISK, MEMORY = "wall seconds an edit (mean)", "disk an edit", "peak memory"
"""Costs of a run. Less is better."""

_BEFORE = {"ES": "reliability", "ERR": "reliability"}
"""Scores with the same questions as another score. The unedited model's score is recorded for the other one only."""


@dataclass(frozen=True)
class Score:
    """One number of a run.

    Attributes:
        name: the name of the metric.
        value: the score as text.
        interval: its 95 % interval as text, or empty.
        before: the unedited model's score as text, or empty.
        kind: how the score is measured.
        meaning: the definition of the metric.
        number: the score as a number.
        best: whether it is the best of the compared runs.
    """

    name: str
    value: str
    interval: str = ""
    before: str = ""
    kind: str = ""
    meaning: str = ""
    number: float | None = None
    best: bool = False


def shown(value: float | None, name: str = "") -> str:
    """Return a score as text, with three decimals, fewer for large values; empty text for None."""
    if value is None:
        return ""
    if name in METRICS and METRICS[name].kind == "count" and value == round(value):
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def name_of_before(name: str) -> str:
    """Return the name under which a run records the unedited model's score on the same questions."""
    return f"{_BEFORE.get(name, name)}_before"


def format_interval(interval: Interval | None, name: str = "") -> str:
    """Return an interval as text; empty text for None."""
    return "" if interval is None else f"[{shown(interval[0], name)}, {shown(interval[1], name)}]"


def score_rows(run: RunFiles) -> list[Score]:
    """Return a run's last scores, each with the unedited model's score."""
    scores, intervals = run.scores(), run.intervals()
    return [
        Score(
            name,
            shown(scores[name], name),
            format_interval(intervals.get(name), name),
            shown(scores.get(name_of_before(name)), name),
            run.kind(name),
            METRICS[name].meaning if name in METRICS else "",
            scores[name],
        )
        for name in sort_names(scores)
        if not (name.endswith("_before") and name.removesuffix("_before") in scores)
    ] + _harness_rows(run)


def _harness_rows(run: RunFiles) -> list[Score]:
    """Return the scores of lm-evaluation-harness, named ``TASK METRIC``, with their standard errors."""
    rows = []
    for task, metrics in as_mapping(run.summary.get(LM_EVAL)).items():
        values = {name: as_mapping(score) for name, score in as_mapping(metrics).items()}
        for name, score in values.items():
            after, before = score.get("after"), score.get("before")
            metric, comma, used_filter = name.partition(",")
            if metric.endswith("_stderr") or not is_number(after):
                continue
            error = values.get(f"{metric}_stderr{comma}{used_filter}", {}).get("after")
            rows.append(
                Score(
                    f"{task} {name}",
                    shown(after),
                    f"± {shown(error)} SE" if is_number(error) else "",
                    shown(before) if is_number(before) else "",
                    "lm-eval",
                    "a score of lm-evaluation-harness, with its standard error",
                    after,
                )
            )
    return rows


def seconds_row(run: RunFiles) -> list[Score]:
    """Return the mean wall time of an edit, if known."""
    seconds = run.timing.get("seconds_per_edit")
    return [] if seconds is None else [Score(SECONDS, f"{seconds:.2f}", number=seconds)]


def main_names(runs: Sequence[RunFiles]) -> list[str]:
    """Return the names of the main scores that a run has; without reliability if it equals ERR in all runs."""
    scores = [run.scores() for run in runs]
    names = [name for name in MAIN if any(name in of_run for of_run in scores)]
    if all(of_run.get("reliability") == of_run.get("ERR") for of_run in scores) and "ERR" in names:
        names = [name for name in names if name != "reliability"]
    return names


def direction(name: str) -> str:
    """Return which values of a score are better: ``higher``, ``lower`` or ``none``."""
    if name in (SECONDS, DISK, MEMORY):
        return "lower"
    return METRICS[name].direction if name in METRICS else "none"


def best(name: str, values: Sequence[float | None]) -> set[int]:
    """Return the positions of the best values, compared as text; none if all are equal or no direction is better."""
    present = [value for value in values if value is not None]
    if len(present) < 2 or direction(name) == "none":
        return set()
    top = shown(max(present) if direction(name) == "higher" else min(present), name)
    positions = {i for i, value in enumerate(values) if value is not None and shown(value, name) == top}
    return set() if len(positions) == len(present) else positions
