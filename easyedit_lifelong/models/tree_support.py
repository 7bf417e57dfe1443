"""Find out whether a model gives the rows of a prefix tree the logits that it gives separate rows."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from easyedit_lifelong.models.devices import input_device
from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.load import context_length
from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.models.partial_pass import same_logits
from easyedit_lifelong.models.prefix_tree import pack_rows, tree_pass

# Not an attribute of the model: a model without edits has no trace of this package.
_RESULTS: weakref.WeakKeyDictionary[Any, dict[tuple[Any, int], bool]] = weakref.WeakKeyDictionary()


def supports_trees(model: Any, width: int) -> bool:
    """Return whether a model gives the rows of prefix trees the right logits.

    The model is tried once for each width: some have position biases, recurrent states or attention windows that an
    attention mask for trees does not control.

    Args:
        model: a model for which :func:`.reads_rows_plainly` is true.
        width: the largest number of columns of the trees.
    """
    context = context_length(model)
    if context is not None and width > context:
        return False
    results = _RESULTS.setdefault(model, {})
    key = (getattr(model.config, "_attn_implementation", None), width)
    if key not in results:
        results[key] = _try_tree(model, width)
    return results[key]


@torch.no_grad()
def _try_tree(model: Any, width: int) -> bool:
    """Return whether the rows of a tree have the logits of separate rows.

    The tree has two rows that differ from the second token on. Its last column continues the text of its first one.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first, second = ([(5 * n + begin) % vocabulary for n in range(width // 2)] for begin in (7, 4))
    rows = [first, first[:1] + second[1:]]
    trees, places = pack_rows(rows, width)
    with evaluating(model):
        ids, mask = pad_rows(rows, 0, "right", input_device(model))
        expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        try:
            found = tree_pass(model, trees, 0)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # an unknown architecture can fail with any exception
            return False
    return all(same_logits(found[tree, path], expected[row], model.dtype) for row, (tree, path) in enumerate(places))
