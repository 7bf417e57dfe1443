"""Merge folders of NeuralDB's edits. Edits do not depend on each other, so they are put into one table, in order."""

from __future__ import annotations

from collections.abc import Sequence

from easyedit_lifelong.methods.merging import MergedEdits, MergeSource
from easyedit_lifelong.methods.neuraldb.config import NeuralDBHyperParams
from easyedit_lifelong.methods.neuraldb.fact_table import answered_tokens, unit_keys
from easyedit_lifelong.methods.neuraldb.store import NeuralDBStore
from easyedit_lifelong.methods.shared.replaced_edits import merge_separate_edits
from easyedit_lifelong.methods.shared.separate_edit import SeparateEdit
from easyedit_lifelong.models.modules import module_path


def merge(sources: Sequence[MergeSource]) -> MergedEdits:
    """Merge folders. Where prompts are equal up to the lookup token, the edit of the latest folder answers.

    Args:
        sources: the folders, in order.

    Raises:
        RunError: a folder is incomplete or damaged, or was made with other settings.
    """
    hparams = NeuralDBHyperParams.from_values(sources[-1].parts[-1].hparams, sources[-1].where)
    layer = module_path(hparams.rewrite_modules[0])
    return merge_separate_edits(NeuralDBStore(), sources, answered_tokens, layer, _distance)


def _distance(edit: SeparateEdit, other: SeparateEdit) -> float:
    """Return 1 - cosine of the keys of two edits."""
    first, second = unit_keys([edit, other])
    return float((1 - first @ second).clamp_min(0))
