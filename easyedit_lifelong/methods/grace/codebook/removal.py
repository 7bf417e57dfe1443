"""Remove edits from a codebook, as if they had never been made.

All edits from the first removed one on are undone. Then every later edit that stays is inserted again by algorithm 1
(arXiv 2211.11031), with its stored query and trained value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, MutableSequence, Sequence

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
    codebook: Codebook, changes: MutableSequence[Change], numbers: Collection[int], names: Sequence[object]
) -> None:
    """Remove edits from a codebook, all or none. Edits before the first removed one cost no time.

    Args:
        codebook: the codebook, changed in place. A key's hits stay with the edit that added the key.
        changes: the changes of all edits, in order; afterwards, those of the remaining edits.
        numbers: the edits to remove, counted from 0.
        names: the name of each edit in messages.

    Raises:
        EditError: the query of a later edit is not known. Then nothing is changed.
    """
    if not numbers:
        return
    check_removable(codebook, changes, numbers, names)
    begin = min(numbers)
    undone, kept = changes[begin:], list[Change]()
    rows, further = rows_of(codebook, undone), further_rows_of(codebook, undone)
    keys_before, hits_before = all_keys_of(codebook, undone), Counter(codebook.hits)
    codebook.undo(*undone)
    try:
        for n, edit in enumerate(trained_edits(undone, rows, further), begin):
            if n not in numbers:
                kept.append(insert_again(codebook, edit)[1])
    except BaseException:
        codebook.undo(*kept)
        for change, (own, other_names), further_rows in zip(undone, rows, further, strict=True):
            queries = [other.query for other in change.other_names]
            codebook.redo(own, change.query, further_rows, list(zip(other_names, queries, strict=True)))
        codebook.hits = hits_before
        raise
    # The hits of keys that were undone are gone. Give them back to the keys of the edits that had added those keys.
    remaining = (n for n in range(len(undone)) if begin + n not in numbers)
    for n, new_keys in zip(remaining, all_keys_of(codebook, kept), strict=True):
        of_keys = (undone[n], *undone[n].other_names)
        for change, old_key, new_key in zip(of_keys, keys_before[n], new_keys, strict=True):
            added_key = old_key >= change.length
            if added_key and hits_before[old_key]:
                codebook.hits[new_key] += hits_before[old_key]
    del changes[begin:]
    changes.extend(kept)


def check_removable(
    codebook: Codebook, changes: Sequence[Change], numbers: Collection[int], names: Sequence[object]
) -> None:
    """Check that the query of every edit after the removed ones is known; see :func:`remove_edits`.

    Raises:
        EditError: a later edit was saved without its query.
    """
    begin = min(numbers, default=len(changes))
    later = changes[begin:]
    for n, (change, key) in enumerate(zip(later, keys_of(codebook, later), strict=True), begin):
        stays, added_key = n not in numbers, key >= change.length
        if stays and not added_key and change.query is None:
            raise EditError(
                f"the edit of case {names[n]!r} came later, and was saved without its query, by an early "
                "release. Roll that edit back, too, and make it again afterwards."
            )
