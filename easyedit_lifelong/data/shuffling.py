"""Draw the records of a run, and their order, at random."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from easyedit_lifelong.data.request import EditRequest


def shuffled(requests: Iterable[EditRequest], seed: int) -> list[EditRequest]:
    """Return requests in a random order.

    A request's place depends on the seed and the case_ids only, not on the order in the data. So the first requests of
    the result are a random sample, which methods with the same seed share.

    Args:
        requests: the requests, whose case_ids differ.
        seed: the seed.
    """
    return sorted(requests, key=lambda request: _place(request.case_id, seed))


def _place(case_id: int | str, seed: int) -> bytes:
    """Return random bytes that depend on seed and case_id only, and differ from those of other choices by them."""
    text = f"order\x00{seed}\x00{type(case_id).__name__}\x00{case_id}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
