"""The overview of a comparison: one table of the scores that matter most, and what each of them means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.report.comparison_table import Comparison, common, compare, when_scored
from easyedit_lifelong.reporting.report.run_files import RunFiles
from easyedit_lifelong.reporting.report.score_rows import SECONDS, Score

_RELIABILITY = "The share of target tokens that the model gives after the edited prompts."
_MEANINGS = {
    "reliability": _RELIABILITY,
    "ERR": _RELIABILITY,
    "generality": "The same after the edited questions in other words.",
    "locality": "The share of tokens of answers to unrelated questions that the unedited model gives, too.",
    "relation_specificity": "The same for other questions about the edited subjects.",
    "TRR": "The share of true answers' tokens that the model gives to questions of general knowledge.",
    "capability": "Accuracy on multiple-choice questions.",
    SECONDS: "Compare seconds only of runs on the same machine.",
}
"""The columns of the overview, and what each means in one sentence."""


@dataclass(frozen=True)
class Overview:
    """The overview of a comparison.

    Attributes:
        about: which model, data and number of edits the runs have.
        table: the scores, a row for each run.
        meanings: name and meaning of each column.
    """

    about: str
    table: Comparison
    meanings: list[tuple[str, str]]


def overview_of(runs: Sequence[RunFiles], names: Sequence[str]) -> Overview:
    """Return the overview of runs; columns without values are left out.

    Args:
        runs: the runs.
        names: their names.
    """
    columns = list(_MEANINGS)
    columns.remove("ERR" if any("reliability" in run.scores() for run in runs) else "reliability")
    table = compare(runs, names, columns)
    return Overview(_about(runs), table, [(name, _MEANINGS[name]) for name in table.metrics])


def bar(score: Score) -> str:
    """Return the length of the bar behind a score, as a CSS percentage; empty text if the score is no share."""
    if score.number is None or score.name == SECONDS or not 0 <= score.number <= 1:
        return ""
    return f"{100 * score.number:.1f}%"


def _about(runs: Sequence[RunFiles]) -> str:
    """Return the models, data and numbers of edits of runs as a sentence."""
    edits = sorted({run.n_edits for run in runs})
    count = f"{edits[0]:,}" if len(edits) == 1 else f"{edits[0]:,} to {edits[-1]:,}"
    noun = "edit" if edits == [1] else "edits"
    models, data = common([run.model for run in runs]), common([run.data or "unnamed data" for run in runs])
    return f"{counted(len(runs), 'run')} on {models}: {count} {noun} of {data}. Scores are those {when_scored(runs)}."
