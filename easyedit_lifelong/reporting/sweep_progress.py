"""The progress of a sweep: a live view on a terminal, else a line every 30 seconds, and a line for each cell's end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from easyedit_lifelong.plurals import counted
from easyedit_lifelong.reporting.console_tables import plain_table, print_line
from easyedit_lifelong.reporting.progress import SECONDS_BETWEEN_LINES
from easyedit_lifelong.reporting.units import duration_text
from easyedit_lifelong.runs.sweep.sweep_plan import Cell

_MAX_CELLS_SHOWN = 8


class SweepProgress:
    """Shows how many cells have ended, how many requests all cells have processed, and which cells are at work.

    The cells work in other processes, so the numbers come from their journals.

    Args:
        console: the console.
        cells: all cells of the sweep.
        pending: those that are to be run.
    """

    def __init__(self, console: Console, cells: Sequence[Cell], pending: Sequence[Cell]) -> None:
        self.console, self.cells = console, cells
        self._pending = {cell.name: cell for cell in pending}
        self._at_start = {cell.name: cell.n_done() for cell in cells}
        self._done = dict(self._at_start)
        self._failed = 0
        self._started_at = self._last_line_at = time.monotonic()

    def update(self) -> None:
        """Read the journals, at a log only when a line is due; print that line."""
        is_due = time.monotonic() - self._last_line_at > SECONDS_BETWEEN_LINES
        if self.console.is_terminal or is_due:
            self._done |= {name: cell.n_done() for name, cell in self._pending.items()}
        if is_due and not self.console.is_terminal:
            self._last_line_at = time.monotonic()
            at_work = [f"{cell.name} {self._done[cell.name]}/{cell.n_requests}" for cell in self._at_work()]
            more = (
                [f"and {counted(len(at_work) - _MAX_CELLS_SHOWN, 'other')}"] if len(at_work) > _MAX_CELLS_SHOWN else []
            )
            print_line(self.console, "; ".join(filter(None, [self._total(), *at_work[:_MAX_CELLS_SHOWN], *more])))

    def ended(self, name: str, failure: str | None) -> None:
        """Print the end of a cell.

        Args:
            name: the name of the cell.
            failure: the reason why it failed; None if it is finished.
        """
        cell = self._pending.pop(name)
        self._done[name] = cell.n_done()
        self._failed += failure is not None
        number = len(self.cells) - len(self._pending)
        outcome = f"finished; {counted(cell.n_requests, 'request')}" if failure is None else f"failed: {failure}"
        print_line(self.console, f"[{number}/{len(self.cells)}] {name}: {outcome}")

    def view(self) -> RenderableType:
        """Return the live view: a line about all cells, and a line for each cell at work."""
        table = plain_table(show_header=False)
        at_work = self._at_work()
        for cell in at_work[:_MAX_CELLS_SHOWN]:
            table.add_row(Text(cell.name), f"{self._done[cell.name]}/{cell.n_requests}")
        if len(at_work) > _MAX_CELLS_SHOWN:
            table.add_row(f"and {counted(len(at_work) - _MAX_CELLS_SHOWN, 'other')}", "")
        return Group(Text(self._total()), table)

    def _at_work(self) -> list[Cell]:
        """Return the cells that have processed requests since this call began and have not ended."""
        return [cell for cell in self._not_ended() if self._done[cell.name] > self._at_start[cell.name]]

    def _not_ended(self) -> list[Cell]:
        """Return the cells that have not ended; a copy, since rich draws the view in a thread while cells end."""
        return list(self._pending.values())

    def _total(self) -> str:
        """Return the numbers of ended cells and processed requests, and the estimated time until the end, as text."""
        n_ended = len(self.cells) - len(self._pending)
        n_done, n_all = sum(self._done.values()), sum(cell.n_requests for cell in self.cells)
        parts = [f"{n_ended}/{len(self.cells)} cells ended", f"{n_done}/{n_all} requests"]
        parts += [f"{self._failed} failed"] if self._failed else []
        new = n_done - sum(self._at_start.values())
        if new > 0 and self._pending:
            left = sum(cell.n_requests - self._done[cell.name] for cell in self._not_ended())
            parts.append(f"about {duration_text((time.monotonic() - self._started_at) / new * left)} left")
        return ", ".join(parts)


@contextlib.contextmanager
def sweep_progress(console: Console, cells: Sequence[Cell], pending: Sequence[Cell]) -> Iterator[SweepProgress]:
    """Show the progress of a sweep within a context.

    Args:
        console: the console.
        cells: all cells of the sweep.
        pending: those that are to be run.
    """
    progress = SweepProgress(console, cells, pending)
    if not console.is_terminal or not pending:
        yield progress
        return
    with Live(get_renderable=progress.view, console=console, refresh_per_second=2, transient=True):
        yield progress
