"""The port of launchers: what starts the cells of a sweep, and reports how they end."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from easyedit_lifelong.runs.sweep.run_cell import CellJob

POLL_SECONDS = 0.5
"""How long a launcher waits for the end of a cell before it yields None, so that the caller can show the progress."""


@dataclass(frozen=True)
class CellEnd:
    """The end of a cell.

    Attributes:
        name: the name of the cell.
        failure: the reason why it failed; None if it is finished.
    """

    name: str
    failure: str | None


Ends = Generator[CellEnd | None, None, None]
"""The end of each cell as it happens, and None whenever nothing has happened for :data:`POLL_SECONDS`."""


class Launcher(Protocol):
    """Runs cells in other processes, several at a time."""

    def launch(self, jobs: Sequence[CellJob]) -> Ends:
        """Start the cells, and yield their ends.

        A cell that fails, or whose process dies, does not stop the others. Closing the generator stops the cells that
        still run; their folders stay valid, and they can be resumed.

        Args:
            jobs: the cells.

        Raises:
            LifelongError: no cell can be started.
        """
