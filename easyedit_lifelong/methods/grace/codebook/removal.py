"""Remove edits from a codebook, as if they had never been made.

All edits from the first removed one on are undone. Then every later edit that stays is inserted again by algorithm 1
(arXiv 2211.11031), with its stored query and trained value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.codebook.decisions import Change
from easyedit_lifelong.methods.grace.codebook.edit_history import (
    all_keys_of,
    further_rows_of,
    insert_again,
    keys_of,
    rows_of,
    trained_edits,
)


def remove_edits(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> list[Change]:
    """Remove edits from a codebook, all or none.

    Args:
        codebook: the codebook, changed in place. A key's hits stay with the edit that added the key.
        changes: the changes of all edits, in order.
        numbers: the edits to remove, counted from 0.
        names: the name of each edit in messages.

    Returns:
        The changes of the remaining edits.

    Raises:
        EditError: the query of a later edit is not known. Then nothing is changed.
    """
    if not numbers:
        return list(changes)
    check_removable(codebook, changes, numbers, names)
    begin = min(numbers)
    rows, further = rows_of(codebook, changes, begin), further_rows_of(codebook, changes, begin)
    keys_before, hits_before = all_keys_of(codebook, changes), Counter(codebook.hits)
    codebook.undo(*changes[begin:])
    kept = list(changes[:begin])
    try:
        for n, edit in enumerate(trained_edits(changes[begin:], rows, further), begin):
            if n not in numbers:
                kept.append(insert_again(codebook, edit)[1])
    except BaseException:
        codebook.undo(*kept[begin:])
        for change, (own, other_names), further_rows in zip(changes[begin:], rows, further, strict=True):
            queries = [other.query for other in change.other_names]
            codebook.redo(own, change.query, further_rows, list(zip(other_names, queries, strict=True)))
        codebook.hits = hits_before
        raise
    # The hits of keys that were undone are gone. Give them back to the keys of the edits that had added those keys.
    remaining = (n for n in range(begin, len(changes)) if n not in numbers)
    for n, new_keys in zip(remaining, all_keys_of(codebook, kept)[begin:], strict=True):
        of_keys = (changes[n], *changes[n].other_names)
        for change, old_key, new_key in zip(of_keys, keys_before[n], new_keys, strict=True):
            added_key = old_key >= change.length
            if added_key and hits_before[old_key]:
                codebook.hits[new_key] += hits_before[old_key]
    return kept


def check_removable(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> None:
    """Check that the query of every edit after the removed ones is known; see :func:`remove_edits`.

    Raises:
        EditError: a later edit was saved without its query.
    """
    keys = keys_of(codebook, changes)
    for n in range(min(numbers, default=len(changes)), len(changes)):
        stays, added_key = n not in numbers, keys[n] >= changes[n].length
        if stays and not added_key and changes[n].query is None:
            raise EditError(
                f"the edit of case {names[n]!r} came later, and was saved without its query, by an early "
                "release. Roll that edit back, too, and make it again afterwards."
            )
