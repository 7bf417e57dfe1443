"""The measurements of one side of a benchmark of edits, and their output."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from _machine import finish, median
from rich import box
from rich.console import Console
from rich.table import Table


@dataclass
class Side:
    """The measurements of one side, one entry for each run: seconds an edit; ``cpu`` counts all threads."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    scores: list[dict[str, float | None]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, edits: int) -> Iterator[None]:
        """Time the edits that are made in this context."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds.append((time.perf_counter() - wall) / edits)
        self.cpu.append((time.process_time() - cpu) / edits)


def table(*sides: Side) -> Table:
    """Return a table with one row for each side."""
    names = list(sides[0].scores[0])
    result = Table("", "s/edit", "CPU s/edit", "steps", *names, box=box.SIMPLE)
    for side in sides:
        scores = [side.scores[-1][name] for name in names]
        shown = ["-" if score is None else f"{score:.3f}" for score in scores]
        result.add_row(side.name, f"{median(side.seconds):.2f}", f"{median(side.cpu):.2f}", str(side.steps[-1]), *shown)
    return result


def report(name: str, console: Console, theirs: Side, ours: Side, **more: Any) -> None:
    """Print both sides as a table, the ratio of their medians, and everything as one JSON object.

    Args:
        name: the benchmark's name.
        console: prints the table.
        theirs: the other side.
        ours: our side.
        **more: further keys of the JSON object.
    """
    console.print(table(theirs, ours))
    faster = median(theirs.seconds) / median(ours.seconds)
    console.print(f"{faster:.1f} times faster an edit (medians of {len(ours.seconds)})")
    finish(
        name,
        ours=median(ours.seconds),
        theirs=median(theirs.seconds),
        unit="seconds an edit",
        runs={"ours": ours.seconds, "theirs": theirs.seconds},
        cpu={"ours": ours.cpu, "theirs": theirs.cpu},
        steps={"ours": ours.steps, "theirs": theirs.steps},
        scores={"ours": ours.scores[-1], "theirs": theirs.scores[-1]},
        **more,
    )
