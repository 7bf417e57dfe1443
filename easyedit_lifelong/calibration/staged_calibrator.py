"""Calibrate any method that declares a search space: an implementation of the port that ``calibrate`` uses."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyedit_lifelong.calibration.held_out_records import HeldOutRecords
from easyedit_lifelong.calibration.search_outcome import outcome_of
from easyedit_lifelong.calibration.staged_search import Budget, StagedSearch
from easyedit_lifelong.calibration.trial_edits import TrialEdits
from easyedit_lifelong.calibration.trials import Trial, TrialLog
from easyedit_lifelong.calibration.values_text import values_text
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, Progress, ShowStep
from easyedit_lifelong.methods.search_space import SearchStage, Values


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search. Its budget is none of them: a search can be resumed with a larger one.

    Attributes:
        layers: the blocks around which edits are tried; None for the method's choice.
        records: the numbers of the records in the data.
        begins_with: the values of the calibrated hyperparameters at the beginning.
    """

    layers: tuple[int, ...] | None
    records: tuple[int, ...]
    begins_with: dict[str, Any]


@dataclass
class SearchSteps:
    """The finished steps of a search; its trials are in a separate file.

    Attributes:
        unedited: the scores of the unedited model on the records; None until they are known.
    """

    unedited: dict[str, float] | None = None


@dataclass(frozen=True)
class StagedCalibrator:
    """Calibrates a method by a staged search; see :class:`~easyedit_lifelong.methods.calibrator.Calibrator`.

    Attributes:
        method: the method; it has a search space.
        hparams: the hyperparameters to begin with.
        records: the records that are edited in every trial.
        blocks: the blocks around which edits are tried; None for the method's choice.
        budget: how much the search may cost.
        trials_file: the file that trials are appended to.
        report: called after each new trial.
    """

    method: EditMethod
    hparams: Any
    records: HeldOutRecords
    blocks: tuple[int, ...] | None
    budget: Budget
    trials_file: Path
    report: Callable[[Trial], object] = field(default=lambda trial: None)

    @property
    def name(self) -> str:
        """The name of the method."""
        return self.method.name

    @property
    def accepts(self) -> str:
        """Which hyperparameter files can be calibrated, for messages."""
        return f"{self.method.name}."

    @property
    def comments(self) -> Mapping[str, str]:
        """The comment beside each calibrated hyperparameter in the written file."""
        return dict.fromkeys(self._fields, "calibrated")

    def mismatch(self, hparams: Any) -> str | None:
        """Return None: nothing prevents the calibration of any hyperparameters of the method."""
        return None

    def settings(self, hparams: Any, options: Mapping[str, Any]) -> SearchSettings:
        """Return the settings of the search."""
        begins_with = {name: getattr(hparams, name) for name in self._fields}
        return SearchSettings(self.blocks, tuple(self.records.numbers), begins_with)

    def steps(self, values: Mapping[str, Any] | None) -> SearchSteps:
        """Return the finished steps that were saved as these values; with None, no step is finished."""
        return SearchSteps(**(values or {}))

    def run(
        self,
        model: Any,
        tok: Any,
        requests: Sequence[EditRequest],
        hparams: Any,
        settings: SearchSettings,
        steps: SearchSteps,
        save: Callable[[SearchSteps], object],
        show: ShowStep,
    ) -> CalibrationOutcome:
        """Make the remaining trials and choose the hyperparameters of the best.

        Raises:
            LifelongError: the method can't edit the model or a record, the budget has no room for two trials, or a
                file can't be written.
        """
        method, log = self.method, TrialLog(self.trials_file)
        if method.check is not None:
            method.check(model, tok, hparams)
        if method.check_requests is not None:
            method.check_requests(model, tok, hparams, requests)
        save(steps)
        edits = TrialEdits(method, model, tok, requests, hparams)
        if steps.unedited is None:
            steps.unedited = edits.unedited()
            save(steps)

        def make_trial(number: int, stage: str, values: Values, trial_hparams: Any) -> Trial:
            what = f", {stage}: {values_text(values)}" if values else ": the values to begin with"
            with show(f"trial {number}{what}") as progress:
                trial = edits.make(number, stage, values, trial_hparams, progress)
            self.report(trial)
            return trial

        def prepare(candidates: Sequence[Any]) -> None:
            self._prepare(model, tok, candidates, show)

        search = StagedSearch(hparams, model, self._stages, log, self.budget, make_trial, prepare)
        result = search.run()
        return outcome_of(hparams, result, log, self.budget, self.records, steps.unedited)

    def _prepare(self, model: Any, tok: Any, candidates: Sequence[Any], show: ShowStep) -> None:
        """Compute what new trials need, such as second moments: at once, if the method can."""
        space, method = self.method.search_space, self.method
        assert space is not None
        if space.prepare is not None:
            with contextlib.ExitStack() as stack:
                shown: list[Progress] = []

                def progress(done: int, total: int) -> None:  # nothing is shown if nothing has to be computed
                    if not shown:
                        shown.append(stack.enter_context(show("preparing the trials")))
                    shown[0](done, total)

                space.prepare(model, tok, candidates, progress)
        elif method.prepare is not None:
            for hparams in candidates:
                method.prepare(model, tok, hparams, None)

    @property
    def _stages(self) -> Sequence[SearchStage]:
        """The stages of the method's search space."""
        assert self.method.search_space is not None
        return self.method.search_space.stages(self.hparams, self.blocks)

    @property
    def _fields(self) -> list[str]:
        """The hyperparameters that some stage sets."""
        known = {item.name for item in dataclasses.fields(self.hparams)}
        return list(dict.fromkeys(name for stage in self._stages for name in stage.fields if name in known))
