"""What is reported, under the names of the papers; one place that says what each number means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """A metric's meaning.

    Attributes:
        name: its key in ``summary.json``.
        kind: ``teacher-forced`` (the answer so far is given) or ``generated`` (free greedy text).
        meaning: what is averaged over what.
        paper: where it is defined.
    """

    name: str
    kind: str
    meaning: str
    paper: str = ""


_GRACE = "GRACE (arXiv 2211.11031), section 4"
_EASYEDIT = "EasyEdit (arXiv 2308.07269)"
_MIRAGE = "The Mirage of Model Editing (arXiv 2502.11177)"

METRICS = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "ES", "teacher-forced", "edit success: share of target tokens chosen, right after each edit", _GRACE
        ),
        MetricSpec(
            "ERR", "teacher-forced", "edit retention rate: of all past edits, at the end (= reliability)", _GRACE
        ),
        MetricSpec(
            "TRR",
            "teacher-forced",
            "test retention rate: share of true answers' tokens chosen, held-out prompts",
            _GRACE,
        ),
        MetricSpec("TRR_before", "teacher-forced", "TRR of the unedited model"),
        MetricSpec(
            "reliability",
            "teacher-forced",
            "share of target tokens chosen on the edits' prompts, at the end",
            _EASYEDIT,
        ),
        MetricSpec(
            "generality", "teacher-forced", "share of target tokens chosen on rephrased prompts, at the end", _EASYEDIT
        ),
        MetricSpec(
            "locality",
            "teacher-forced",
            "share of tokens chosen as the unedited model chooses, locality prompts",
            _EASYEDIT,
        ),
        MetricSpec(
            "portability", "teacher-forced", "share of answer tokens chosen on what follows from the edits", _EASYEDIT
        ),
        MetricSpec("reliability_before", "teacher-forced", "reliability of the unedited model"),
        MetricSpec("generality_before", "teacher-forced", "generality of the unedited model"),
        MetricSpec("portability_before", "teacher-forced", "portability of the unedited model"),
        MetricSpec(
            "generation_match", "generated", "share of edits whose greedy continuation begins with the target", _MIRAGE
        ),
        MetricSpec(
            "generation_match_word", "generated", "the same, where the target's last word or number ends there, too"
        ),
        MetricSpec("generation_match_rephrase", "generated", "generation_match on rephrased prompts", _MIRAGE),
    )
}


def mean(values: Iterable[float]) -> float | None:
    """Return the mean, or None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None
