"""Models with the edits of earlier versions, which share the weights of the served model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from easyedit_lifelong.models.shared_weights import copy_sharing_weights

MAX_VERSIONS = 8
"""How many versions one batch can have, and how many earlier versions are kept in memory."""


class EarlierVersions:
    """Makes a copy of the base model for each earlier version, and keeps the latest :data:`MAX_VERSIONS`.

    Args:
        base: the model without edits.
        load: ``load(model, version)`` puts the edits of a version on a copy of the base model.
    """

    def __init__(self, base: Any, load: Callable[[Any, int], None]) -> None:
        self._base, self._load = base, load
        self._models: dict[object, Any] = {}

    def __len__(self) -> int:
        """Return how many models are kept."""
        return len(self._models)

    def model(self, key: object, version: int) -> Any:
        """Return the model of a version.

        Args:
            key: what the edits of the version depend on. Versions with the same edits can share a model.
            version: the version.
        """
        model = self._models.pop(key, None)
        if model is None:
            model = copy_sharing_weights(self._base)
            self._load(model, version)
        self._models[key] = model  # the last one is the latest
        if len(self._models) > MAX_VERSIONS:
            del self._models[next(iter(self._models))]
        return model
