"""The model that carries the edits of the present version, and earlier ones that running answers still use.

An answer keeps the model object of its version: what edits decide about its prompt belongs to the layers of that
object. So a change that is made while answers run on the present model acts on a copy, which takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from easyedit_lifelong.models.overrides import overridden
from easyedit_lifelong.models.shared_weights import copy_sharing_weights
from easyedit_lifelong.serving.edit_errors import NotServableError

LOG = logging.getLogger(__name__)

MAX_COPIED_EDITS = 1_000
"""The largest number of edits of a present version that is copied so that a change need not wait for running answers.

Loading 1,000 edits onto a copy takes 0.5 to 0.8 s of CPU (GRACE by subjects, SmolLM2-135M), about as long as an edit.
With more, the copy would often take longer than the answers that the change would wait for, and each version of a batch
has its edits in memory.
"""


class PresentModel:
    """Holds the model of the present version.

    Args:
        model: the model, at first without edits.
        base: a copy of it without edits, which shares its weights.
        load: ``load(model, version)`` puts the edits of a version on a model without edits.
        remove: removes all edits from a model.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Any, base: Any, load: Callable[[Any, int], None], remove: Callable[[Any], None]) -> None:
        self.model = model
        self._base, self._load, self._remove = base, load, remove
        self._running: list[Any] = []
        self._retained: list[Any] = []
        self._broken: Exception | None = None

    @property
    def usable(self) -> bool:
        """Whether the model carries the edits of the present version. If not, it could not be restored."""
        return self._broken is None

    def check_usable(self) -> None:
        """Check that the model carries the edits of the present version.

        Raises:
            NotServableError: it doesn't.
        """
        if self._broken is not None:
            raise NotServableError(f"the edits could not be loaded again ({self._broken}). Restart the server.")

    @property
    def is_running(self) -> bool:
        """Whether running answers need the model as it is."""
        return _contains(self._running, self.model)

    def answers_running(self, running: Iterable[Any]) -> AbstractContextManager[None]:
        """Return a context in which changes leave models as they are, because running answers need them.

        Args:
            running: the models of these answers. No pass of them is under way.
        """
        return overridden("_running", {self: list(running)})

    def load(self, version: int) -> None:
        """Replace the edits of the model by those of a version.

        If running answers need the model, a copy with the edits of the version takes its place.

        Raises:
            RunError: the version can't be loaded. Then the model that running answers need is still the present one;
                any other one is without edits.
        """
        if not self.is_running:
            self._remove(self.model)
            self._load(self.model, version)
            return
        copied = copy_sharing_weights(self._base)
        self._load(copied, version)
        self._retained.append(self.model)
        self.model = copied

    def restore(self, version: int) -> None:
        """Load the present version after a change failed. If that fails, the model can't be used any more."""
        if self.is_running:  # the change failed before a copy took the model's place
            return
        try:
            self.load(version)
        except Exception as error:
            self._broken = error
            raise

    def release(self, running: Iterable[Any] = ()) -> None:
        """Remove the edits from retained models, except for those that answers still need.

        Their hooks are in reference cycles, so that the edits would stay in memory until the next garbage collection.

        Args:
            running: the models of the answers that still run.
        """
        needed = list(running)
        ended = [model for model in self._retained if not _contains(needed, model)]
        self._retained = [model for model in self._retained if _contains(needed, model)]
        for model in ended:
            try:
                self._remove(model)
            except Exception:  # no answer needs the model, so none may fail with it
                LOG.exception("edits that no answer needs could not be removed; their memory is freed later")


def _contains(models: Iterable[Any], model: Any) -> bool:
    """Return whether a model object is among models."""
    return any(other is model for other in models)
