"""Lookups of GRACE's codebook, compared with brute force (all distances) on the same queries."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from _machine import alternate, median
from torch import Tensor

from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook


@dataclass
class Times:
    """Seconds of several runs; ``cpu`` counts all threads of this process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Time a run."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def over(self, other: Times) -> dict[str, float]:
        """Return the median ratio of these times to another side's, over alternating runs."""
        return {
            "ratio": round(median(a / b for a, b in zip(self.wall, other.wall, strict=True)), 4),
            "cpu_ratio": round(median(a / b for a, b in zip(self.cpu, other.cpu, strict=True)), 4),
        }


@torch.no_grad()
def compare_lookups(codebook: Codebook, far: Tensor, runs: int) -> dict[str, Any]:
    """Time lookups of a batch of queries, two of which match, and the nearest key of a distant query.

    Args:
        codebook: the codebook.
        far: queries, shape ``(batch, key_size)``, none of which need match.
        runs: runs of each side.

    Returns:
        Medians of seconds: ``ours`` and ``theirs`` (brute force), ``nearest_ours`` and ``nearest_theirs``, and the same
        in CPU time in ``cpu``; ``take_up_seconds`` of the first lookup; ``keys`` and ``bytes``.

    Raises:
        LifelongError: the answers differ.
    """
    near = codebook.keys[[len(codebook) // 3, len(codebook) // 2]]
    queries = torch.cat([far[:-2], near + 0.1 * codebook.eps * torch.nn.functional.normalize(far[:2])])
    answers: dict[str, Any] = {}
    times = {name: Times() for name in ("theirs", "ours", "nearest_theirs", "nearest_ours")}

    def brute(_: int) -> None:
        with times["theirs"].running():
            distance, index = codebook.distances(queries).min(dim=1)
            reach = codebook.radii[index] + codebook.rounding * queries.norm(dim=1)
            answers["theirs"] = torch.where(distance <= reach, index, -1).tolist()
        with times["nearest_theirs"].running():
            answers["nearest_theirs"] = int(codebook.distances(queries[:1]).argmin())

    def ours(_: int) -> None:
        with times["ours"].running():
            answers["ours"] = codebook.lookup(queries).tolist()
        with times["nearest_ours"].running():
            answers["nearest_ours"] = codebook.nearest(queries[0]).index

    first_lookup = Times()
    with first_lookup.running():
        ours(0)
    brute(0)
    for measured in times.values():
        measured.wall.clear()
        measured.cpu.clear()
    alternate(runs, brute, ours)
    if answers["ours"] != answers["theirs"] or answers["nearest_ours"] != answers["nearest_theirs"]:
        raise LifelongError(f"{len(codebook)} keys: the search and brute force don't agree: {answers}")
    return {
        "keys": len(codebook),
        "bytes": codebook.nbytes,
        "take_up_seconds": first_lookup.wall[0],
        **{name: median(measured.wall) for name, measured in times.items()},
        "cpu": {name: median(measured.cpu) for name, measured in times.items()},
    }
