"""A calibration's tables, the same for the terminal and for the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from easyedit_lifelong.calibration.choice import best_finding
from easyedit_lifelong.calibration.finding import Finding, rates_with
from easyedit_lifelong.calibration.gates import Gate
from easyedit_lifelong.calibration.study import Calibration, Settings
from easyedit_lifelong.calibration.trials import SCORES, Point, Trial

_MARK = "←"
_THROUGH = (0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        headers: of its columns.
        rows: their cells.
        left: how many columns hold text; the others hold numbers.
    """

    title: str
    headers: list[str]
    rows: list[list[str]]
    left: int = 1

    def markdown(self) -> str:
        """Return the table as Markdown, with its title before it."""
        lines = [self.headers, ["---"] * self.left + ["---:"] * (len(self.headers) - self.left), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"

    def show(self, console: Console) -> None:
        """Print the table."""
        grid = Grid(title=f"\n{self.title}", title_justify="left", box=None, pad_edge=False)
        for number, header in enumerate(self.headers):
            text = number < self.left
            grid.add_column(header, justify="left" if text else "right", overflow="fold", no_wrap=not text)
        for row in self.rows:
            grid.add_row(*map(Text, row))
        console.print(grid)


def finding_table(findings: Sequence[Finding], rate: float, *, short: bool = False) -> Table:
    """Return the table of where subjects are found; a short one has the rate asked for alone."""
    best, rates = best_finding(findings, rate), [rate] if short else rates_with(rate)
    rows = [
        [
            short_name(one.layer), one.distance, f"{one.right:.3f}", *(f"{one.at(each).found:.3f}" for each in rates),
            f"{one.auto.found:.3f}", f"{one.auto.fires:.3f}", _MARK if one is best else "",
        ]
        for one in findings
    ]  # fmt: skip
    headers = [
        "layer",
        "distance",
        "nearest is right",
        *(f"found at {each:.1%}" for each in rates),
        "auto",
        "fires",
        "",
    ]
    return Table("Paraphrases found, by how many locality prompts may fire", headers, rows, 2)


def gate_table(gates: Sequence[Gate]) -> Table:
    """Return the table of what the answering layers' gates can tell apart."""
    rows = [
        [short_name(gate.layer), f"{gate.auc:.3f}", *(_opening(gate, share) for share in _THROUGH)] for gate in gates
    ]
    headers = ["layer", "AUC", *(f"at {share:.0%}" for share in _THROUGH)]
    return Table(
        "Other questions about the subject that pass where so many paraphrases do (and the gate)",
        headers, rows,
    )  # fmt: skip


def trial_table(trial: Trial, picked: Point | None) -> Table:
    """Return the table of a trial's scores.

    Args:
        trial: the trial.
        picked: what was picked; None if that is another trial's.
    """
    rows = [
        [
            "none" if point.gate is None else f"{point.gate:.2f}",
            *(f"{getattr(point, name):.3f}" for name in SCORES),
            _MARK if point is picked else "",
        ]
        for point in trial.points
    ]
    headers = ["gate", *(name.replace("_", " ") for name in SCORES), ""]
    return Table(f"{trial.n_edits} edits that answer at {trial.layer}", headers, rows)


def tables_of(calibration: Calibration, settings: Settings, *, short: bool = False) -> list[Table]:
    """Return all tables of a finished calibration."""
    steps, choice = calibration.steps, calibration.choice
    assert steps.findings is not None and steps.gates is not None
    return [
        finding_table(steps.findings, settings.false_fire_rate, short=short),
        gate_table(steps.gates),
        *(trial_table(trial, choice.point if trial is choice.trial else None) for trial in steps.trials),
    ]


def verdict(calibration: Calibration, settings: Settings) -> list[str]:
    """Say what was picked, and why."""
    choice, counts, rate = calibration.choice, calibration.counts, settings.false_fire_rate
    finding, point, free = choice.finding, choice.point, choice.trial.points[-1]
    radius = finding.auto if choice.eps == "auto" else finding.at(rate)
    if point.gate is None:
        why = (
            f"with no gate: behind all that were tried, generality is less than {settings.generality:g} of the "
            f"{free.generality:.3f} that it is without."
        )
    else:
        why = (
            f"gate_eps {point.gate:g}: the narrowest at which generality is at least {settings.generality:g} of the "
            f"{free.generality:.3f} that it is without. It is {point.generality:.3f} there."
        )
    lines = [
        f"Subjects are found at {finding.layer}, by {finding.distance}, eps {choice.eps}: {radius.found:.3f} of the "
        f"paraphrases, while {radius.fires:.3f} of the locality prompts fire.",
        f"Edits answer at {choice.trial.layer}, {why} Relation specificity is {point.relation_specificity:.3f} "
        f"({free.relation_specificity:.3f} without a gate), reliability {point.reliability:.3f}, locality "
        f"{point.locality:.3f}.",
    ]  # fmt: skip
    if counts.locality * rate < 1:
        lines.append(
            f"A false-fire rate of {rate:g} is less than one of {counts.locality} locality prompts; more records would "
            "make more of it."
        )
    if counts.made:
        lines.append(
            f"{counts.made} of {counts.records} records have no question about another relation "
            "(relation_specificity): theirs are other records' prompts, with their subjects put in."
        )
    if choice.eps != "auto":
        lines.append(
            f"eps: auto would find {finding.auto.found:.3f} and fire in {finding.auto.fires:.3f}; so it is one radius "
            "for all keys."
        )
    return lines


def short_name(layer: str) -> str:
    """Return a layer's path from the number of its block on; the whole path where it has none."""
    parts = layer.split(".")
    begin = next((n for n, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[begin:])


def _opening(gate: Gate, share: float) -> str:
    opening = gate.letting(share)
    return f"{opening.others:.3f} ({opening.radius:.2f})"
