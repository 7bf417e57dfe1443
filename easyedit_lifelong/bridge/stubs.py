"""Replacements for small functions that EasyEdit imports from large packages, if those aren't installed.

Only functions that every user of a method needs are here. For all others there are placeholders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def f1_score(y_true: Sequence[int], y_pred: Sequence[int], *, average: str = "macro") -> float:
    """Return the mean of the F1 scores of all labels, like ``sklearn.metrics.f1_score``.

    EasyEdit's main branch uses it to score methods called GRACE.

    Args:
        y_true: the correct labels.
        y_pred: the predicted labels, of the same number.
        average: only ``"macro"``, which EasyEdit uses.

    Raises:
        ValueError: the lengths differ, or ``average`` has another value.
    """
    if average != "macro":
        raise ValueError(f"average={average!r} needs scikit-learn. Run: pip install scikit-learn")
    if len(y_true) != len(y_pred):
        raise ValueError(f"{len(y_true)} labels can't be compared with {len(y_pred)}")
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    scores = [
        2 * np.sum((true == label) & (predicted == label)) / (np.sum(true == label) + np.sum(predicted == label))
        for label in np.union1d(true, predicted)
    ]
    return float(np.mean(scores))


#: The replacements by module and name.
STUBS: dict[tuple[str, str], Callable[..., Any]] = {("sklearn.metrics", "f1_score"): f1_score}
