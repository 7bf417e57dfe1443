"""The sections of a run: what they checked and measured, and the time that each of them may take."""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table


class OutOfTime(Exception):
    """A section has used its time."""


@dataclass(frozen=True)
class Check:
    """A property that was checked.

    Attributes:
        section: the name of the section.
        step: the model, dtype and method.
        name: the property.
        passed: whether it holds.
        detail: the measured difference, or the error.
    """

    section: str
    step: str
    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Figure:
    """A measurement.

    Attributes:
        section: the name of the section.
        step: the model, dtype and method.
        name: what was measured.
        value: the number.
        unit: its unit.
        goal: the largest value that this project aims at; None if there is no goal.
    """

    section: str
    step: str
    name: str
    value: float
    unit: str
    goal: float | None = None


@dataclass
class Report:
    """All checks and figures.

    Attributes:
        console: where every check that fails is printed at once.
        out: a JSON file that is rewritten after every step, so that an interrupted run leaves its results; None for
            no file.
        facts: what the file says of the machine and the options.
        checks: the checks.
        figures: the figures.
        sections: for each section, ``name``, ``seconds``, and ``state``: ``done``, ``cut`` or ``skipped``.
    """

    console: Console
    out: Path | None
    facts: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    sections: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    def result(self) -> dict[str, Any]:
        """Return everything as an object for JSON."""
        return {
            "name": "gpu",
            "passed": not self.failed,
            "complete": all(section["state"] == "done" for section in self.sections),
            "sections": self.sections,
            "checks": [asdict(check) for check in self.checks],
            "figures": [asdict(figure) for figure in self.figures],
            **self.facts,
        }

    def write(self) -> None:
        """Write the file."""
        if self.out is not None:
            self.out.write_text(json.dumps(self.result(), indent=1) + "\n", encoding="utf-8")

    def print_line(self) -> None:
        """Print everything as one JSON object, the last line of the output."""
        sys.stdout.flush()
        sys.stdout.write(json.dumps(self.result()) + "\n")

    def print_tables(self) -> None:
        """Print the figures of each section, all sections, and the failed checks."""
        sections = Table("section", "state", "s", "checks", "failed", box=box.SIMPLE)
        for section in self.sections:
            name = section["name"]
            if figures := [figure for figure in self.figures if figure.section == name]:
                self.console.print(f"\n{name}", _table(name, figures))
            checks = [check for check in self.checks if check.section == name]
            failed = sum(not check.passed for check in checks)
            sections.add_row(name, section["state"], f"{section['seconds']:.1f}", str(len(checks)), str(failed))
        self.console.print(sections)
        for check in self.failed:
            self.console.print(_line(check), markup=False)


@dataclass
class Section:
    """The part of a report that one section writes.

    Attributes:
        name: the section's name.
        report: the report.
        deadline: the ``time.perf_counter()`` after which no further step begins.
    """

    name: str
    report: Report
    deadline: float
    _step: str = ""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step of the section. An error in it becomes a failed check, and the section continues.

        Args:
            name: the model, dtype and method.

        Raises:
            OutOfTime: the section has used its time.
        """
        self.begin(name)
        try:
            yield
        except Exception as error:
            self.check("runs", False, f"{type(error).__name__}: {error}")
            self.report.console.print(traceback.format_exc(), markup=False)
        finally:
            self.report.write()

    def begin(self, name: str) -> None:
        """Begin a step without catching its errors; see :meth:`step`."""
        if time.perf_counter() >= self.deadline:
            raise OutOfTime
        self._step = name

    def check(self, name: str, passed: bool, detail: str = "") -> None:
        """Record whether a property holds."""
        self.report.checks.append(Check(self.name, self._step, name, bool(passed), detail))
        if not passed:
            self.report.console.print(_line(self.report.checks[-1]), markup=False)

    def figure(self, name: str, value: float, unit: str, goal: float | None = None) -> None:
        """Record a measurement; ``goal`` is the largest value that this project aims at."""
        self.report.figures.append(Figure(self.name, self._step, name, float(value), unit, goal))


@dataclass(frozen=True)
class SectionPlan:
    """A section that is to be run.

    Attributes:
        name: its name.
        run: writes checks and figures into the section that it is given.
        share: the part of the time that it may take, relative to the shares of other sections.
    """

    name: str
    run: Callable[[Section], None]
    share: float


def run_sections(plans: Sequence[SectionPlan], seconds: float, report: Report) -> None:
    """Run all sections, each in its share of the time that is left. Time that a section leaves goes to later ones.

    A section whose time is over begins no further step; its state is then ``cut``, or ``skipped`` if it did nothing.
    """
    end = time.perf_counter() + seconds
    for number, plan in enumerate(plans):
        began = time.perf_counter()
        share = plan.share / sum(later.share for later in plans[number:])
        section = Section(plan.name, report, began + share * max(end - began, 0.0))
        report.console.print(f"{plan.name}: at most {section.deadline - began:.0f} s", markup=False)
        state = "done"
        try:
            plan.run(section)
        except OutOfTime:
            recorded = [*report.checks, *report.figures]
            state = "cut" if any(entry.section == plan.name for entry in recorded) else "skipped"
        except Exception as error:  # outside a step, such as a model that does not fit into memory
            section.check("runs", False, f"{type(error).__name__}: {error}")
            report.console.print(traceback.format_exc(), markup=False)
        report.sections.append({"name": plan.name, "state": state, "seconds": time.perf_counter() - began})
        report.write()
        _free_memory()


def _free_memory() -> None:
    """Free the GPU memory of a section's models, also of those that refer to themselves through hooks."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _line(check: Check) -> str:
    return f"{'passed' if check.passed else 'FAILED'}: {check.section}: {check.step}: {check.name} {check.detail}"


def _table(section: str, figures: Sequence[Figure]) -> Table:
    """Lay out the figures of a section: a row for each figure, a column for each model or method."""
    steps = list(dict.fromkeys(figure.step for figure in figures))
    table = Table("", *(step.removesuffix(f", {section}") for step in steps), box=box.SIMPLE)
    cells = {(figure.name, figure.step): _value(figure) for figure in figures}
    for name, unit in dict.fromkeys((figure.name, figure.unit) for figure in figures):
        table.add_row(f"{name}, {unit}" if unit else name, *(cells.get((name, step), "") for step in steps))
    return table


def _value(figure: Figure) -> str:
    text = f"{figure.value:.4g}"
    if figure.goal is None:
        return text
    return f"{text} (goal {figure.goal:g}: {'met' if figure.value <= figure.goal else 'not met'})"
