"""The trials of a search, and the file that they are appended to: a line of JSON for each."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.atomic import append_durably, write_text_atomically
from easyedit_lifelong.methods.report_sections import is_number
from easyedit_lifelong.runs.run_lines import Check, is_count, is_text, read_lines
from easyedit_lifelong.write_errors import translated_write_errors

SCORES = ("reliability", "generality", "locality")
"""The scores of a trial. Their harmonic mean is the objective of the search."""


@dataclass(frozen=True)
class Trial:
    """Edits that were made with some hyperparameters, scored and rolled back.

    Attributes:
        number: the number of the trial, counted from 1.
        stage: the stage of the search that the trial was made for.
        values: the hyperparameters that differ from those that the search began with.
        scores: the teacher-forced scores (:data:`SCORES`) after all edits; empty if no edits could be made.
        n_edits: number of edits.
        n_failed: number of edits that failed; they are scored like the others.
        seconds: seconds of editing and scoring.
        problem: why no edits could be made; empty otherwise.
    """

    number: int
    stage: str
    values: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    n_edits: int = 0
    n_failed: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def objective(self) -> float:
        """The harmonic mean of the scores: 0 if one of them is 0, or if no edits could be made."""
        return float(statistics.harmonic_mean(tuple(self.scores.values()))) if self.scores else 0.0

    @property
    def rank(self) -> tuple[float, float]:
        """The objective, and the arithmetic mean of the scores, which decides between equal objectives."""
        return self.objective, statistics.fmean(self.scores.values()) if self.scores else -1.0


def _is_mapping(value: Any, _: Mapping[str, Any]) -> bool:
    return isinstance(value, dict)


def _are_scores(value: Any, _: Mapping[str, Any]) -> bool:
    return isinstance(value, dict) and (not value or set(value) == set(SCORES)) and all(map(is_number, value.values()))


_FIELDS: Mapping[str, Check] = {
    "number": is_count,
    "stage": is_text,
    "values": _is_mapping,
    "scores": _are_scores,
    "n_edits": is_count,
    "n_failed": is_count,
    "seconds": lambda value, _: is_number(value),
    "problem": is_text,
}


class TrialLog:
    """The trials of a search, in memory and in a file. A trial is found by its values.

    Args:
        path: the file; if it exists, its trials are read. An incomplete last line, which a killed process leaves, is
            removed.

    Attributes:
        trials: the trials, in order.

    Raises:
        RunError: the file can't be read or written, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = read_lines(path, _FIELDS, "this search can't be resumed. Start again in another folder, with --out")
        names = [item.name for item in dataclasses.fields(Trial)]
        self.trials = [Trial(**{name: entry[name] for name in names}) for entry in entries]
        with translated_write_errors(path):
            if path.exists() and not path.read_bytes().endswith(b"\n"):
                write_text_atomically(path, "".join(map(_line, self.trials)))
        self._by_values = {_key(trial.values): trial for trial in self.trials}

    def find(self, values: Mapping[str, Any]) -> Trial | None:
        """Return the trial with these values; None if there is none."""
        return self._by_values.get(_key(values))

    def add(self, trial: Trial) -> None:
        """Append a trial; it is on disk when this returns.

        Raises:
            RunError: the file can't be written.
        """
        with translated_write_errors(self.path):
            append_durably(self.path, _line(trial).encode())
        self.trials.append(trial)
        self._by_values[_key(trial.values)] = trial

    @property
    def seconds(self) -> float:
        """The seconds of all trials together."""
        return sum(trial.seconds for trial in self.trials)


def _line(trial: Trial) -> str:
    """Return a trial as a line of JSON, with its objective, which is not read back."""
    return json.dumps({**dataclasses.asdict(trial), "objective": trial.objective}, ensure_ascii=False) + "\n"


def _key(values: Mapping[str, Any]) -> str:
    """Return a text that is equal for equal values."""
    return json.dumps(values, sort_keys=True)
