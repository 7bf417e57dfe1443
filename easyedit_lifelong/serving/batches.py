"""Open the kind of batch that fits a model and a method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from easyedit_lifelong.models.model_modes import evaluating
from easyedit_lifelong.serving.continuous_batch import ContinuousBatch
from easyedit_lifelong.serving.generation import Row
from easyedit_lifelong.serving.live_model import LiveModel
from easyedit_lifelong.serving.static_batch import StaticBatch


class Batch(Protocol):
    """Answers that are generated in one batch."""

    def has_room(self, rows: Sequence[Row]) -> bool:
        """Return whether these answers fit the batch, beside the present ones."""

    def add(self, row: Row, version: int) -> None:
        """Add an answer of a version.

        Raises:
            NotServableError: the model could not be restored after an earlier failure.
            RunError: the version can't be loaded.
        """

    def models(self) -> Sequence[Any]:
        """Return the models that unfinished answers need as they are."""

    def detach_edits(self) -> None:
        """Remove all edits from the base model until the next step."""

    def step(self) -> int:
        """Run one step, and return the number of answers that got tokens. The rows are updated."""


@contextlib.contextmanager
def open_batch(live: LiveModel, version: int, max_rows: int) -> Iterator[Batch]:
    """Yield an empty batch. Until its end, edits change only within :meth:`.PresentModel.answers_running`.

    Answers join a running batch if the edits act by row, or are in the weights alone, and if the model's cache allows
    it. Otherwise the batch is static: they begin at the same time.

    Args:
        live: the model.
        version: the version of all answers, unless the model mixes versions.
        max_rows: how many answers can be generated at the same time.

    Raises:
        NotServableError: the model could not be restored after an earlier failure.
        RunError: the version can't be loaded, if the model does not mix versions.
    """
    tokenizer = live.tokenizer
    if live.mixes_versions:
        if not live.caches_rows(live.base):
            yield StaticBatch(live.of_rows, live.base, tokenizer, max_rows)
            return
        with (
            evaluating(live.base),
            contextlib.closing(ContinuousBatch(live.base, live.of_version, tokenizer, max_rows)) as batch,
        ):
            yield batch
        return
    with live.at(version) as model:
        if live.caches_rows(model):
            with evaluating(model):
                yield ContinuousBatch(model, lambda _: model, tokenizer, max_rows)
        else:
            yield StaticBatch(lambda _: contextlib.nullcontext(model), model, tokenizer, max_rows)
