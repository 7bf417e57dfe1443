"""Small functions that EasyEdit takes from big packages, for when those aren't installed.

Only what every user of a method would meet belongs here; the rest is left to placeholders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def f1_score(y_true: Sequence[int], y_pred: Sequence[int], *, average: str = "macro") -> float:
    """Average the F1 scores of all labels that occur, as ``sklearn.metrics.f1_score`` does.

    EasyEdit's main branch scores every model of a method called GRACE with it.

    Args:
        y_true: the right labels.
        y_pred: the labels to score, as many.
        average: only ``"macro"``, which is what EasyEdit asks for.

    Raises:
        ValueError: the lengths differ, or another average is asked for.
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


#: Stubs by module and name.
STUBS: dict[tuple[str, str], Callable[..., Any]] = {("sklearn.metrics", "f1_score"): f1_score}
