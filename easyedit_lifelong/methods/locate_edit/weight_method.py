"""What MEMIT-like methods register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.locate_edit.check import check_model, check_requests
from easyedit_lifelong.methods.locate_edit.editor import WeightEditor
from easyedit_lifelong.methods.locate_edit.moments import second_moments
from easyedit_lifelong.methods.search_space import SearchSpace
from easyedit_lifelong.methods.weight_updates.batch_method import batch_method


def weight_method(
    editor_class: type[WeightEditor[Any]],
    apply: Callable[..., Any],
    label: str,
    shown_settings: Sequence[str],
    batchable: bool = True,
    search_space: SearchSpace | None = None,
) -> EditMethod:
    """Return the method of an editor that solves for its updates with second moments.

    The arguments are those of :func:`~easyedit_lifelong.methods.weight_updates.batch_method.batch_method`, and the
    search space of the method.
    """
    return batch_method(
        editor_class,
        apply,
        label,
        shown_settings,
        batchable,
        check=check_model,
        check_requests=check_requests,
        prepare=second_moments,
        search_space=search_space,
    )
