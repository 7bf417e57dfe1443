"""The port of methods that can calibrate themselves: choose some of their hyperparameters for one model.

The ``calibrate`` command reads the files, loads the model, writes the results and shows them. The method runs the
study and returns what it chose, as tables, text and plots that know nothing about the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from easyedit_lifelong.data.request import EditRequest

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is to do."""


def no_progress(done: int, total: int) -> None:
    """Show no progress."""


ShowStep = Callable[[str], AbstractContextManager[Progress]]
"""Given the name of a step, returns a context that shows the step's progress."""


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: what it shows.
        headers: of its columns.
        rows: their cells.
        left: how many columns from the left hold text; the others hold numbers.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class PlotSeries:
    """Points of a plot that belong together.

    Attributes:
        points: their coordinates, in order.
        label: what the legend calls them; empty to leave them out.
        number: series of the same number have the same colour.
        style: a line, a dotted line, or crosses without a line.
        notes: texts beside some places.
    """

    points: Sequence[tuple[float, float]]
    label: str = ""
    number: int = 0
    style: Literal["line", "dotted", "crosses"] = "line"
    notes: Mapping[tuple[float, float], str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlotPanel:
    """One of several plots side by side.

    Attributes:
        title: what it shows.
        x_label: what its horizontal axis shows.
        series: what is drawn.
        chosen: the point that was chosen.
        y_label: what its vertical axis shows, if the title does not say it.
        ticks: names of the horizontal coordinates 0, 1, 2 …, if they stand for names.
        y_range: limits of the vertical axis; None to fit the points.
    """

    title: str
    x_label: str
    series: Sequence[PlotSeries]
    chosen: tuple[float, float]
    y_label: str = ""
    ticks: Sequence[str] = ()
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class CalibrationOutcome:
    """What a calibration chose, and what to show of it.

    Attributes:
        chosen: the chosen hyperparameters, by name.
        counts: how much the calibration rests on, by name; ``given`` and ``records`` (used) among them.
        scores: of what was chosen, by name.
        evidence: what was measured beside the records, such as "48 paraphrases".
        verdict: what was chosen, and why, in a few sentences.
        tables: all that was seen.
        short_tables: the part of it that a terminal shows.
        panels: the plots, from left to right.
        caption: what the plots show, in a few words.
    """

    chosen: Mapping[str, Any]
    counts: Mapping[str, int]
    scores: Mapping[str, Any]
    evidence: str
    verdict: Sequence[str]
    tables: Sequence[TextTable]
    short_tables: Sequence[TextTable]
    panels: Sequence[PlotPanel]
    caption: str


class Calibrator(Protocol):
    """Chooses some of a method's hyperparameters for one model, on records that nothing else is judged by.

    Attributes:
        name: what is calibrated, for titles.
        accepts: which hyperparameter files can be calibrated and which one to begin with, for messages.
        comments: the hyperparameters that are chosen, and what the written file says about each.
    """

    name: str
    accepts: str
    comments: Mapping[str, str]

    def mismatch(self, hparams: Any) -> str | None:
        """Return what these hyperparameters of the method are for, if they cannot be calibrated; else None."""

    def settings(self, hparams: Any, options: Mapping[str, Any]) -> Any:
        """Return what to look for: a dataclass that JSON can hold, by which a calibration is recognised when resumed.

        Args:
            hparams: the hyperparameters to begin with.
            options: the options of the ``calibrate`` command, by name.

        Raises:
            LifelongError: an option cannot be used.
        """

    def steps(self, values: Mapping[str, Any] | None) -> Any:
        """Return the finished steps of a calibration: a dataclass that JSON can hold.

        Args:
            values: the fields of such a dataclass, as read from JSON; None for a calibration that begins.

        Raises:
            KeyError, TypeError, ValueError: these are not the fields of such a dataclass.
        """

    def run(
        self,
        model: Any,
        tok: Any,
        requests: Sequence[EditRequest],
        hparams: Any,
        settings: Any,
        steps: Any,
        save: Callable[[Any], object],
        show: ShowStep,
    ) -> CalibrationOutcome:
        """Run the steps that are not finished, and choose.

        Args:
            model: a model without edits; it is unchanged afterwards.
            tok: its tokenizer.
            requests: the records.
            hparams: the hyperparameters to begin with.
            settings: see :meth:`settings`.
            steps: see :meth:`steps`; every step is added to it.
            save: writes the steps to disk; called with them after each step.
            show: shows the progress of a step.

        Raises:
            LifelongError: the calibration cannot be made.
        """
