"""The port of methods that can be calibrated: some of their hyperparameters are chosen for one model.

The ``calibrate`` command reads the files, loads the model, writes the results and shows them. The method runs the
study and returns the chosen values, with tables, text and plots in a form that does not depend on the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from easyedit_lifelong.data.request import EditRequest

Progress = Callable[[int, int], None]
"""``progress(done, total)`` is called with the number of units done so far, and the total."""


def no_progress(done: int, total: int) -> None:
    """Show no progress."""


ShowStep = Callable[[str], AbstractContextManager[Progress]]
"""``show(step_name)`` returns a context manager that shows the step's progress; it yields the progress callback."""


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
        title: the title: what the table shows.
        headers: the headings of the columns.
        rows: the cells, row by row.
        left: number of columns, from the left, that hold text; the others hold numbers.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class PlotSeries:
    """One series of points in a plot.

    Attributes:
        points: (x, y) coordinates, in order.
        label: the entry in the legend; empty for none.
        number: index of the colour; series with the same number have the same colour.
        style: a line, a dotted line, or crosses or points without a line.
        notes: texts to write beside points, by coordinates.
    """

    points: Sequence[tuple[float, float]]
    label: str = ""
    number: int = 0
    style: Literal["line", "dotted", "crosses", "points"] = "line"
    notes: Mapping[tuple[float, float], str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlotPanel:
    """One of several plots side by side.

    Attributes:
        title: the title: what the plot shows.
        x_label: label of the horizontal axis.
        series: the series to draw.
        chosen: coordinates of the chosen point, which is marked.
        y_label: label of the vertical axis; empty if the title says it.
        ticks: tick labels of the horizontal coordinates 0, 1, 2, …; empty for a numeric axis.
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
    """The hyperparameters that a calibration chose, with the text, tables and plots that show why.

    Attributes:
        chosen: the chosen hyperparameters, by name.
        counts: how much data the calibration used, by name; among them ``given`` (records given) and ``records``
            (records used).
        scores: the scores of the chosen values, by name.
        evidence: further data that the calibration used, such as "48 paraphrases".
        verdict: a few sentences that say what was chosen, and why.
        tables: all results.
        short_tables: shorter tables for a terminal.
        panels: the plots, from left to right.
        caption: a short description of the plots.
        rows: the results as rows with equal names of columns, for a CSV file; empty for none.
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
    rows: Sequence[Mapping[str, Any]] = ()


class Calibrator(Protocol):
    """Chooses some of a method's hyperparameters for one model, on held-out records."""

    @property
    def name(self) -> str:
        """What is calibrated, for titles."""

    @property
    def accepts(self) -> str:
        """Which hyperparameter files can be calibrated, and which one to begin with, for messages."""

    @property
    def comments(self) -> Mapping[str, str]:
        """The calibrated hyperparameters: name to the comment that the written file has beside the value."""

    def mismatch(self, hparams: Any) -> str | None:
        """Return what prevents the calibration of these hyperparameters, for a message; None if nothing does."""

    def settings(self, hparams: Any, options: Mapping[str, Any]) -> Any:
        """Return the settings of a calibration as a JSON-serializable dataclass.

        A calibration is resumed only with equal settings.

        Args:
            hparams: the hyperparameters to begin with.
            options: the options of the ``calibrate`` command, by name.

        Raises:
            LifelongError: an option cannot be used.
        """

    def steps(self, values: Mapping[str, Any] | None) -> Any:
        """Return the finished steps of a calibration as a JSON-serializable dataclass.

        Args:
            values: the fields of the dataclass, as read from JSON; None for a new calibration.

        Raises:
            KeyError, TypeError, ValueError: the values are not the fields of the dataclass.
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
        """Run the remaining steps and choose the hyperparameters.

        Args:
            model: a model without edits; it is unchanged afterwards.
            tok: its tokenizer.
            requests: the records.
            hparams: the hyperparameters to begin with.
            settings: the settings that :meth:`settings` returned.
            steps: the finished steps that :meth:`steps` returned. The result of every further step is added to it.
            save: writes the steps to disk; called with ``steps`` after each step.
            show: shows the progress of a step.

        Raises:
            LifelongError: the calibration failed.
        """
