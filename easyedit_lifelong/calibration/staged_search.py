"""A staged search: choose hyperparameters one stage after another, each by trials of all its candidates.

Coordinate search: a stage tries its candidates with the best values of the stages so far, and keeps the best. After the
last stage the search begins again with the first, until a round changes nothing. What a hyperparameter is worth can
depend on another one that is chosen later, so random combinations of the values tried so far follow: as many as the
stages had trials. A better one is where the stages begin again. docs/research/calibration-search.md compares this.

The search knows neither the method nor how a trial is made. It is deterministic given the results of its trials, so a
resumed search continues as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.calibration.trials import Trial, TrialLog
from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.methods.search_space import SearchStage, Values
from easyedit_lifelong.plurals import counted

START = "start"
"""The stage of the first trial, which has the values that the search begins with."""

COMBINATIONS = "combinations"
"""The stage of trials of random combinations."""

_MAX_ROUNDS = 3
_MAX_DRAWS = 1000
"""Number of random combinations in a row that were tried before, after which all are taken to be tried."""


@dataclass(frozen=True)
class Budget:
    """How much a search may cost. Trials of earlier, interrupted calls count; those that the method refused don't.

    Attributes:
        seconds: most seconds of all trials together. A trial is begun only if one as long as the longest still fits.
        trials: most trials; None for no limit.
    """

    seconds: float
    trials: int | None = None

    def allows_another(self, log: TrialLog) -> bool:
        """Return whether the budget has room for another trial."""
        seconds = [trial.seconds for trial in log.trials if not trial.problem]
        if not seconds:
            return True
        return sum(seconds) + max(seconds) <= self.seconds and (self.trials is None or len(seconds) < self.trials)

    def describe(self) -> str:
        """Return the limits as text."""
        return f"{self.seconds:g} s" + ("" if self.trials is None else f" and {counted(self.trials, 'trial')}")


@dataclass(frozen=True)
class SearchResult:
    """The result of a staged search.

    Attributes:
        best: the best trial.
        tried_fields: the hyperparameters of the stages of which some candidate was tried.
        ended_in: the stage in which the budget ended; empty if the search was completed.
    """

    best: Trial
    tried_fields: tuple[str, ...]
    ended_in: str


class _BudgetEnded(Exception):
    """The budget has no room for another trial; the message is the name of the stage."""


_UNCHANGED = object()
"""Stands for the value of a hyperparameter that the search begins with."""


class StagedSearch:
    """Searches for the best hyperparameters of a method on one model.

    Args:
        hparams: the hyperparameters to begin with.
        model: the model, for the candidates of the stages.
        stages: the stages, in order.
        log: the trials so far; new ones are added.
        budget: how much the search may cost.
        make_trial: ``make_trial(number, stage, values, hparams)`` makes the edits of a trial.
        prepare: called with the hyperparameters of new trials before they are made.
    """

    def __init__(
        self,
        hparams: Any,
        model: Any,
        stages: Sequence[SearchStage],
        log: TrialLog,
        budget: Budget,
        make_trial: Callable[[int, str, Values, Any], Trial],
        prepare: Callable[[Sequence[Any]], object],
    ) -> None:
        self.hparams, self.model, self.stages, self.log, self.budget = hparams, model, stages, log, budget
        self._make_trial, self._prepare = make_trial, prepare
        self._random = random.Random(0)  # nosec B311 # the choice of trials is no secret
        self._visited: list[Trial] = []

    def run(self) -> SearchResult:
        """Make the trials that are not in the log yet, and return the best.

        Raises:
            HyperParameterError: the method refuses the hyperparameters to begin with.
            RunError: the budget has no room for two trials.
        """
        ended_in = ""
        try:
            best: Trial | None = self._start()
            while best is not None:
                best = self._better_combination(self._run_stages(best))
        except _BudgetEnded as ended:
            ended_in = str(ended)
        if ended_in and sum(not trial.problem for trial in self.log.trials) < 2:
            raise RunError(self._too_small())
        tried = {trial.stage for trial in self._visited}
        fields = dict.fromkeys(field for stage in self.stages if stage.name in tried for field in stage.fields)
        # Of equal trials, the earlier one is the best.
        return SearchResult(max(self._visited, key=lambda trial: trial.rank), tuple(fields), ended_in)

    def _start(self) -> Trial:
        """Return the trial of the values to begin with; what the first stage needs is prepared together with them."""
        trial = self.log.find({})
        if trial is None:
            self._prepare_all([{}, *(self._candidates(self.stages[0], {}) if self.stages else [])])
            trial = self._make_trial(1, START, {}, self.hparams)
            if trial.problem:
                raise HyperParameterError(trial.problem)
            self.log.add(trial)
        self._visited.append(trial)
        return trial

    def _run_stages(self, best: Trial) -> Trial:
        """Return the best trial of the stages, which are repeated until a round changes nothing.

        Raises:
            _BudgetEnded: the budget has no room for a trial.
        """
        for _ in range(_MAX_ROUNDS):
            before = best
            for stage in self.stages:
                trials = self._visit_all(stage.name, self._candidates(stage, best.values))
                best = max([best, *trials], key=lambda trial: trial.rank)
            if best is before:
                break
        return best

    def _better_combination(self, best: Trial) -> Trial | None:
        """Try random combinations of the values that were tried, and return the first that is better than the best.

        Returns None after as many combinations as the stages had trials, and if there is no other combination.

        Raises:
            _BudgetEnded: the budget has no room for a trial.
        """
        while True:
            n_combinations = sum(trial.stage == COMBINATIONS for trial in self._visited)
            values = self._new_combination() if 2 * n_combinations < len(self._visited) else None
            if values is None:
                return None
            (trial,) = self._visit_all(COMBINATIONS, [values])
            if trial.rank > best.rank:
                return trial

    def _new_combination(self) -> Values | None:
        """Return a random combination of the values that were tried; None if there is hardly a new one."""
        made = [trial for trial in self._visited if not trial.problem]
        names = list(dict.fromkeys(name for trial in made for name in trial.values))
        choices = {name: _distinct([trial.values.get(name, _UNCHANGED) for trial in made]) for name in names}
        visited = [trial.values for trial in self._visited]
        for _ in range(_MAX_DRAWS):
            drawn = {name: self._random.choice(values) for name, values in choices.items()}
            values = {name: value for name, value in drawn.items() if value is not _UNCHANGED}
            if values not in visited:
                return values
        return None

    def _candidates(self, stage: SearchStage, values: Values) -> list[Values]:
        """Return the candidates of a stage, each as all values that differ from those to begin with."""
        present = {name: getattr(self.hparams, name) for name in stage.fields if hasattr(self.hparams, name)}
        candidates = []
        for candidate in stage.candidates(self._with(values), self.model):
            combined = {**values, **candidate}
            changed = {name: value for name, value in combined.items() if name not in present or value != present[name]}
            if changed != values and changed not in candidates:
                candidates.append(changed)
        return candidates

    def _visit_all(self, stage: str, candidates: Sequence[Values]) -> list[Trial]:
        """Return the trials of candidates: from the log, or new ones.

        Raises:
            _BudgetEnded: the budget has no room for one of them.
        """
        new = [values for values in candidates if self.log.find(values) is None]
        if new and self.budget.allows_another(self.log):
            self._prepare_all(new)
        trials = []
        for values in candidates:
            trial = self.log.find(values) or self._try(stage, values)
            if not any(trial is visited for visited in self._visited):
                self._visited.append(trial)
            trials.append(trial)
        return trials

    def _try(self, stage: str, values: Values) -> Trial:
        """Make a trial and add it to the log. Values that the method refuses are one without scores, which is free.

        Raises:
            _BudgetEnded: the budget has no room for it.
        """
        number = len(self.log.trials) + 1
        try:
            hparams = self._with(values)
        except HyperParameterError as error:
            trial = Trial(number, stage, dict(values), problem=str(error))
        else:
            if not self.budget.allows_another(self.log):
                raise _BudgetEnded(stage)
            trial = self._make_trial(number, stage, values, hparams)
        self.log.add(trial)
        return trial

    def _prepare_all(self, candidates: Sequence[Values]) -> None:
        """Prepare what new trials need; values that the method refuses need nothing."""
        prepared = []
        for values in candidates:
            try:
                prepared.append(self._with(values))
            except HyperParameterError:
                continue
        self._prepare(prepared)

    def _with(self, values: Mapping[str, Any]) -> Any:
        """Return the hyperparameters with some values replaced.

        Raises:
            HyperParameterError: the method refuses them.
        """
        return dataclasses.replace(self.hparams, **values)

    def _too_small(self) -> str:
        """Return the message about a budget that ended after the first trial."""
        seconds = self.log.seconds
        return (
            f"the budget of {self.budget.describe()} has no room for two trials, the least that can be compared: the "
            f"first one took {seconds:.3g} s. It is kept; continue with --resume and a larger budget, such as "
            f"--max-seconds {max(60, round(20 * seconds))} for about 20 trials."
        )


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return each of some values once, in order; lists, which have no hash, included."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
