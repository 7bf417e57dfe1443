"""A fixed random sample of a run's edits, so that scoring a run of N edits costs O(N) instead of O(N²)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from typing import TypeVar

from easyedit_lifelong.data.request import EditRequest

Request = TypeVar("Request", bound=EditRequest)


def rank(case_id: int | str, seed: int) -> int:
    """Return a pseudo-random number, in [0, 2^64), that depends on the seed and the case_id only."""
    text = f"{seed}\x00{type(case_id).__name__}\x00{case_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def sample_of(requests: Sequence[Request], size: int | None, seed: int = 0) -> list[Request]:
    """Return a random sample of requests: those of the lowest ranks, in the order of ``requests``.

    The ranks depend on the seed and the case_ids only. So an edit in the final sample of a run was also in every
    earlier sample since it was made, and the points of a curve compare the same edits as far as possible.

    Args:
        requests: the requests to draw from.
        size: the size of the sample; None for all requests.
        seed: the seed of the ranks.
    """
    if size is None or len(requests) <= size:
        return list(requests)
    ranks = [rank(request.case_id, seed) for request in requests]
    drawn = heapq.nsmallest(size, range(len(requests)), key=lambda index: (ranks[index], index))
    return [requests[index] for index in sorted(drawn)]


def ever_sampled(requests: Sequence[Request], size: int | None, seed: int = 0) -> list[Request]:
    """Return the requests that :func:`sample_of` draws from the first n requests, for any n, in order.

    They are about ``size * (1 + log(len(requests) / size))``. The arguments are those of :func:`sample_of`.
    """
    if size is None:
        return list(requests)
    sampled, highest = list[Request](), list[tuple[int, int]]()  # the ranks of the present sample, negated
    for index, request in enumerate(requests):
        entry = (-rank(request.case_id, seed), -index)
        if len(highest) < size:
            heapq.heappush(highest, entry)
        elif heapq.heappushpop(highest, entry) == entry:
            continue
        sampled.append(request)
    return sampled
