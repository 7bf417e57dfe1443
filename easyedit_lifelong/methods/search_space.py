"""The port of methods whose hyperparameters a staged search can choose for one model.

A method declares which hyperparameters depend on the model, and which values are worth trying. The search itself, in
:mod:`easyedit_lifelong.calibration`, is the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]
"""Values of hyperparameters, by field."""

Candidates = Callable[[Any, Any], Sequence[Values]]
"""``candidates(hparams, model)`` returns the values to try. ``hparams`` have the best values found so far."""


@dataclass(frozen=True)
class SearchStage:
    """One stage of a search: hyperparameters that are chosen together, while all others keep their values.

    Attributes:
        name: the name of the stage, such as "layers".
        fields: the hyperparameters that its candidates set.
        candidates: returns the values to try; the present values are tried anyway.
    """

    name: str
    fields: tuple[str, ...]
    candidates: Candidates


@dataclass(frozen=True)
class SearchSpace:
    """What a staged search tries for a method.

    Attributes:
        stages: ``stages(hparams, blocks)`` returns the stages in their order. ``blocks`` are the numbers of the blocks
            at which the user wants edits to be tried; None if the method chooses them.
        prepare: ``prepare(model, tok, candidates, progress)`` computes and stores at once what several hyperparameters
            need, such as the second moments of all their layers; ``progress(done, total)`` shows its progress. None:
            the ``prepare`` port of the method is called for each candidate.
    """

    stages: Callable[[Any, Sequence[int] | None], Sequence[SearchStage]]
    prepare: Callable[[Any, Any, Sequence[Any], Callable[[int, int], None]], object] | None = None


def alternatives(name: str, field: str, values: Sequence[Any]) -> SearchStage:
    """Return a stage that tries given values of one hyperparameter."""
    return SearchStage(name, (field,), lambda hparams, model: [{field: value} for value in values])


def multiples(name: str, field: str, factors: Sequence[float]) -> SearchStage:
    """Return a stage that tries multiples of the present value of one hyperparameter, rounded to three digits.

    It tries nothing where the present value is not a number other than 0.
    """

    def candidates(hparams: Any, model: Any) -> list[Values]:
        present = getattr(hparams, field)
        if isinstance(present, bool) or not isinstance(present, (int, float)) or not present:
            return []
        return [{field: float(f"{present * factor:.3g}")} for factor in factors]

    return SearchStage(name, (field,), candidates)
