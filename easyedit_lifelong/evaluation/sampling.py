"""A fixed random sample of a run's edits, so that scoring a run of N edits costs O(N) and not O(N²)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from typing import TypeVar

from easyedit_lifelong.data.request import EditRequest

Case = TypeVar("Case", bound=EditRequest)


def rank(case_id: int | str, seed: int) -> int:
    """Return a request's place in the seed's random order of all requests that there may ever be."""
    text = f"{seed}\x00{type(case_id).__name__}\x00{case_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def sample_of(requests: Sequence[Case], size: int | None, seed: int = 0) -> list[Case]:
    """Return the requests of the lowest ranks, in their own order; all of them if there are no more.

    What is drawn depends on nothing but the seed and the case ids: an edit that is in the sample of a long
    run is in that of every beginning of it that has it, so a curve compares the same edits as far as it can.

    Args:
        requests: what is drawn from.
        size: how many; None for all.
        seed: of the draw.
    """
    if size is None or len(requests) <= size:
        return list(requests)
    ranks = [rank(request.case_id, seed) for request in requests]
    drawn = heapq.nsmallest(size, range(len(requests)), key=lambda i: (ranks[i], i))
    return [requests[i] for i in sorted(drawn)]
