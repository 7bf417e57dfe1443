"""A codebook without some of its edits, as if they had never been entered.

All edits from the first of them on are undone. Then every later edit that stays enters again, by the paper's
algorithm 1, with the query and the trained value that it had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.codebook.history import enter, entries_in, keys_of, rows_of


def without(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> list[Change]:
    """Take edits out of a codebook. All or none.

    Args:
        codebook: it is changed in place. Each key's hits stay with the edit that added it.
        changes: what its edits changed, in order.
        numbers: which edits to take out, counted from 0.
        names: what the edits are called, for messages.

    Returns:
        What the edits that are left changed.

    Raises:
        EditError: it isn't known what a later edit was entered with.
    """
    if not numbers:
        return list(changes)
    check_known(codebook, changes, numbers, names)
    begin = min(numbers)
    rows, hits, owners = rows_of(codebook, changes, begin), Counter(codebook.hits), keys_of(codebook, changes)
    codebook.undo(*changes[begin:])
    kept = list(changes[:begin])
    try:
        for n, entry in enumerate(entries_in(changes[begin:], rows), begin):
            if n not in numbers:
                kept.append(enter(codebook, entry)[1])
    except BaseException:
        codebook.undo(*kept[begin:])
        for change, changed in zip(changes[begin:], rows, strict=True):
            codebook.redo(changed, change.query)
        codebook.hits = hits
        raise
    left = (n for n in range(begin, len(changes)) if n not in numbers)
    for n, index in zip(left, keys_of(codebook, kept)[begin:], strict=True):
        if owners[n] >= changes[n].length and hits[owners[n]]:  # it had added that key
            codebook.hits[index] += hits[owners[n]]
    return kept


def check_known(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> None:
    """Check that it is known what every edit that came after these was entered with; see :func:`without`.

    Raises:
        EditError: it isn't.
    """
    keys = keys_of(codebook, changes)
    for n in range(min(numbers, default=len(changes)), len(changes)):
        if n not in numbers and keys[n] < changes[n].length and changes[n].query is None:
            raise EditError(
                f"the edit of case {names[n]!r} came later, and isn't known in full: it was saved before edits kept "
                "their queries. Take that one out, too, and make it anew afterwards."
            )
