"""Edit with some of a fact's wordings and hold the others out, as GRACE's paper does with zsRE."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from types import MappingProxyType

from easyedit_lifelong.data.request import EditRequest, check_unique
from easyedit_lifelong.errors import DataError


def split_rephrasings(requests: Iterable[EditRequest], edit_with: int, seed: int = 0) -> list[EditRequest]:
    """Turn some rephrasings of every fact into further edits; the others stay to be asked, unseen.

    GRACE's experiment on zsRE (section 3 of the paper) edits with about half of ten rephrasings and asks the
    others, to see whether a codebook that has met several wordings of a fact knows one that it hasn't met.

    A further edit follows its fact's first, with the same target, a rephrasing as its prompt, and the case_id
    ``12#1``, ``12#2``, … It has no locality, relation specificity nor portability of its own: the fact's first edit
    has been asked those. The rephrasings held out stay the ``rephrase_prompts`` of the fact's first edit, so
    generality is measured on them alone. At least one is held out of every fact that has any: one with fewer than
    ``edit_with + 1`` gives all but one. Rephrasings that say the same as another, or as the prompt, count once.

    Which are held out depends on the seed and on the fact alone, so it keeps its split when others are added or
    left out.

    Args:
        requests: the facts.
        edit_with: how many rephrasings of each to edit with, besides its prompt.
        seed: of the choice.

    Raises:
        DataError: ``edit_with`` is negative, no fact has the two rephrasings that a split needs, or a new
            case_id is taken.
    """
    requests = list(requests)
    if edit_with < 0:
        raise DataError(f"edit_with: {edit_with} is less than 0")
    if edit_with == 0:
        return requests
    split = [part for request in requests for part in _split(request, edit_with, seed)]
    if len(split) == len(requests):
        raise DataError(
            "no fact has two different rephrasings, so none can be edited with while another is held out. Use data "
            "with several (rephrase_prompt: a list), or don't ask for edits with rephrasings."
        )
    check_unique(split)
    return split


def _split(request: EditRequest, edit_with: int, seed: int) -> list[EditRequest]:
    """Return a fact's edits: its own, and those with rephrasings."""
    seen = {_spelled(request.prompt)}
    wordings: list[str] = []
    for wording in request.rephrase_prompts:
        if _spelled(wording) not in seen:
            seen.add(_spelled(wording))
            wordings.append(wording)
    count = min(edit_with, max(len(wordings) - 1, 0))
    # By digests, which are the same in every process and every version of Python: a resumed run must find its edits.
    lot = {
        wording: hashlib.sha256(f"{seed} {request.case_id!r} {wording}".encode("utf-8", "surrogatepass")).digest()
        for wording in wordings
    }
    chosen = sorted(sorted(range(len(wordings)), key=lambda index: lot[wordings[index]])[:count])
    held_out = tuple(wording for index, wording in enumerate(wordings) if index not in chosen)
    further = [
        dataclasses.replace(
            request,
            case_id=f"{request.case_id}#{number}",
            prompt=wordings[index],
            rephrase_prompts=(),
            locality=MappingProxyType({}),
            portability=MappingProxyType({}),
            relation_specificity=(),
        )
        for number, index in enumerate(chosen, 1)
    ]
    return [dataclasses.replace(request, rephrase_prompts=held_out), *further]


def _spelled(wording: str) -> str:
    """Return a wording without what makes no difference: spaces and capitals."""
    return " ".join(wording.split()).casefold()
