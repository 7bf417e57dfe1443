"""What a benchmark of edits measures of each side."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Side:
    """What was measured of one side: one entry a run. Seconds are an edit's; ``cpu`` counts all threads."""

    name: str
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    scores: list[dict[str, float | None]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, edits: int) -> Iterator[None]:
        """Time some edits."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds.append((time.perf_counter() - wall) / edits)
        self.cpu.append((time.process_time() - cpu) / edits)
