"""Make the edits of a trial on the unedited model, score them, and roll them back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import torch

from easyedit_lifelong.calibration.trials import SCORES, Trial
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import CovarianceError, EditError, HyperParameterError, ModelError, NotLearnedWarning
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorers import requests_and_scorer
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.calibrator import Progress
from easyedit_lifelong.methods.search_space import Values


class TrialEdits:
    """Makes the same edits with different hyperparameters. The constructor scores the unedited model.

    Args:
        method: the editing method.
        model: the unedited model.
        tokenizer: its tokenizer.
        requests: the edits.
        hparams: the hyperparameters that the search begins with.
    """

    def __init__(
        self, method: EditMethod, model: Any, tokenizer: Any, requests: Sequence[EditRequest], hparams: Any
    ) -> None:
        self.method, self.model, self.tokenizer = method, model, tokenizer
        self.requests, scorer = requests_and_scorer(model, tokenizer, requests, hparams)
        self._board = Scoreboard(scorer, model, self.requests, [], generation_requests=[])

    def unedited(self) -> dict[str, float]:
        """Return the scores of the unedited model; its locality is 1."""
        before = self._board.before(self.requests).values
        return {name: before[f"{name}_before"] for name in SCORES[:2]} | {"locality": 1.0}

    def make(self, number: int, stage: str, values: Values, hparams: Any, progress: Progress) -> Trial:
        """Make a trial: edit in the method's batches, score after the last one, and roll back.

        Values that do not fit the model, or the device's memory, are a trial without scores, which names the problem.

        Args:
            number: the number of the trial.
            stage: the stage of the search.
            values: the values that the stage has set.
            hparams: all hyperparameters.
            progress: called after each batch, and after the scoring.

        Raises:
            EditError: the method returns no rollback.
        """
        began = time.monotonic()
        rollbacks: list[Any] = []
        try:
            if self.method.check is not None:
                self.method.check(self.model, self.tokenizer, hparams)
            n_failed = self._edit_all(hparams, rollbacks, progress)
            found = self._board.score(self.model, self.requests).values
        except (CovarianceError, HyperParameterError, ModelError) as error:
            return Trial(number, stage, dict(values), problem=str(error))
        except torch.OutOfMemoryError:
            return Trial(number, stage, dict(values), problem="out of memory; a smaller batch_size may fit")
        finally:
            for rollback in reversed(rollbacks):
                rollback()
        progress(len(self.requests) + 1, len(self.requests) + 1)
        scores = {name: float(found[name]) for name in SCORES}
        seconds = round(time.monotonic() - began, 3)
        return Trial(number, stage, dict(values), scores, len(self.requests), n_failed, seconds)

    def _edit_all(self, hparams: Any, rollbacks: list[Any], progress: Progress) -> int:
        """Make all edits in batches, add the rollback of each, and return how many edits failed."""
        size = hparams.batch_size if self.method.batchable else 1
        n_failed = 0
        for start in range(0, len(self.requests), size):
            batch = self.requests[start : start + size]
            n_failed += 0 if self._edit(batch, hparams, rollbacks) else len(batch)
            progress(start + len(batch), len(self.requests) + 1)
        return n_failed

    def _edit(self, batch: Sequence[EditRequest], hparams: Any, rollbacks: list[Any]) -> bool:
        """Edit a batch and add its rollback; return whether the edit succeeded.

        Raises:
            EditError: the method returns no rollback.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearnedWarning)  # the scores say it
            try:
                _, rollback = self.method.apply(self.model, self.tokenizer, list(batch), hparams)
            except EditError:
                return False
        if not callable(rollback):
            raise EditError(f"{self.method.name} returns no rollback, so its hyperparameters can't be calibrated")
        rollbacks.append(rollback)
        return True
