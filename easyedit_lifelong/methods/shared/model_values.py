"""Values that are computed once for a model, and kept in memory as long as the model has the same weights.

Copies that share the weights share the values.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from easyedit_lifelong.models.fingerprint import model_fingerprint
from easyedit_lifelong.models.shared_weights import SharedWeights, weights_of

Value = TypeVar("Value")


class ModelValues:
    """The latest value of each kind for one model, and for copies that share its weights.

    Args:
        fingerprint: the fingerprint of the weights that the values are of.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._latest: dict[str, tuple[Hashable, Any]] = {}

    def get(self, kind: str, settings: Hashable, compute: Callable[[], Value]) -> Value:
        """Return a value; compute it if the latest of its kind has other settings.

        One value of a kind is kept, so that a search over many settings does not fill the memory.

        Args:
            kind: the name of the value.
            settings: everything but the weights that changes the value.
            compute: computes it. The value must not refer to the model, which could then never be freed.
        """
        known, value = self._latest.get(kind, (None, None))
        if known != settings:
            value = compute()
            self._latest[kind] = (settings, value)
        return cast("Value", value)


# Not an attribute of the model: a model without edits has no trace of this package.
_VALUES: weakref.WeakKeyDictionary[SharedWeights, ModelValues] = weakref.WeakKeyDictionary()


def values_of(model: Any) -> ModelValues:
    """Return the values that are kept for a model with its present weights.

    This takes one pass over the weights: see :func:`.model_fingerprint`.

    Raises:
        ModelError: the model has no parameters, or their values aren't available.
    """
    weights, fingerprint = weights_of(model), model_fingerprint(model)
    values = _VALUES.get(weights)
    if values is None or values.fingerprint != fingerprint:
        values = _VALUES[weights] = ModelValues(fingerprint)
    return values
