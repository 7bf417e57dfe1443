"""Edit with some rephrasings of a fact and hold the others out, as the GRACE paper does with zsRE."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from types import MappingProxyType

from easyedit_lifelong.data.request import EditRequest, check_unique
from easyedit_lifelong.errors import DataError


def split_rephrasings(requests: Iterable[EditRequest], edit_with: int, seed: int = 0) -> list[EditRequest]:
    """Turn some rephrasings of every fact into additional edits, and hold the others out.

    GRACE's experiment on zsRE (section 3 of the paper) edits with about half of ten rephrasings and evaluates on the
    others. It shows whether a codebook that contains several rephrasings of a fact generalises to a new one.

    The additional edits of a fact directly follow its request. They have the same target, a rephrasing as the prompt,
    and the case_ids ``12#1``, ``12#2``, … They have no locality, relation specificity or portability probes, since the
    original request has them. The held-out rephrasings are the ``rephrase_prompts`` of the original request, so that
    generality is measured on these alone. At least one rephrasing of a fact is held out: a fact with at most
    ``edit_with`` rephrasings is edited with all but one. Rephrasings that differ only in spaces and capitals from
    another one, or from the prompt, are dropped.

    The choice depends only on the seed and the fact. So it doesn't change if other facts are added or removed.

    Args:
        requests: the facts.
        edit_with: number of rephrasings of each fact to edit with, in addition to its prompt.
        seed: seed of the choice.

    Returns:
        The requests, each followed by its additional edits.

    Raises:
        DataError: ``edit_with`` is negative, no fact has the two rephrasings that a split needs, or a new
            case_id is used already.
    """
    requests = list(requests)
    if edit_with < 0:
        raise DataError(f"edit_with: {edit_with} is less than 0")
    if edit_with == 0:
        return requests
    edits = [edit for request in requests for edit in _split_request(request, edit_with, seed)]
    if len(edits) == len(requests):
        raise DataError(
            "no fact has two different rephrasings, one to edit with and one to hold out. Use data with several "
            "rephrasings per fact (rephrase_prompt: a list), or don't edit with rephrasings."
        )
    check_unique(edits)
    return edits


def _split_request(request: EditRequest, edit_with: int, seed: int) -> list[EditRequest]:
    """Return a fact's request with its held-out rephrasings, and its additional edits."""
    seen = {normalize_text(request.prompt)}
    rephrasings: list[str] = []
    for rephrasing in request.rephrase_prompts:
        if normalize_text(rephrasing) not in seen:
            seen.add(normalize_text(rephrasing))
            rephrasings.append(rephrasing)
    count = min(edit_with, max(len(rephrasings) - 1, 0))

    def digest(rephrasing: str) -> bytes:
        # A resumed run must make the same choice. Digests are the same in every process and version of Python.
        return hashlib.sha256(f"{seed} {request.case_id!r} {rephrasing}".encode("utf-8", "surrogatepass")).digest()

    drawn = set(sorted(rephrasings, key=digest)[:count])  # the rephrasings are distinct
    chosen = [rephrasing for rephrasing in rephrasings if rephrasing in drawn]
    held_out = tuple(rephrasing for rephrasing in rephrasings if rephrasing not in drawn)
    additional = [
        dataclasses.replace(
            request,
            case_id=f"{request.case_id}#{number}",
            prompt=rephrasing,
            rephrase_prompts=(),
            locality=MappingProxyType({}),
            portability=MappingProxyType({}),
            relation_specificity=(),
        )
        for number, rephrasing in enumerate(chosen, 1)
    ]
    return [dataclasses.replace(request, rephrase_prompts=held_out), *additional]


def normalize_text(text: str) -> str:
    """Return a text with single spaces and without capitals."""
    return " ".join(text.split()).casefold()
