"""The results of lm-evaluation-harness in a run: before the first edit and after the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from easyedit_lifelong.evaluation.harness import HarnessScores, HarnessTasks, evaluate_tasks
from easyedit_lifelong.runs.run_folder import LM_EVAL, RunFolder
from easyedit_lifelong.runs.run_lines import Check, read_lines

BEFORE, AFTER = "before", "after"
HARNESS_FILE = "lm_eval.jsonl"


def _are_scores(value: Any, _: Mapping[str, Any]) -> bool:
    return isinstance(value, dict) and all(isinstance(scores, dict) for scores in value.values())


_FIELDS: Mapping[str, Check] = {"when": lambda value, _: value in (BEFORE, AFTER), "scores": _are_scores}


class HarnessResults:
    """Evaluates the tasks of a run, and keeps the results in the run's folder.

    Args:
        tasks: the tasks; None for none.
        folder: the run's folder, if it has one.
        resume: whether to read the results that the folder holds, so that no model is evaluated twice.

    Raises:
        RunError: the file of results cannot be read, or a line of it is damaged.
    """

    def __init__(self, tasks: HarnessTasks | None, folder: RunFolder | None, *, resume: bool) -> None:
        self._tasks, self._folder = tasks, folder
        self._results: dict[str, HarnessScores] = {}
        if tasks is not None and folder is not None and resume:
            lines = read_lines(
                folder.path / HARNESS_FILE, _FIELDS, "delete this file, and the tasks are evaluated again"
            )
            self._results = {entry["when"]: entry["scores"] for entry in lines}

    def evaluate(self, when: str, model: Any, tokenizer: Any) -> None:
        """Evaluate the tasks on a model, unless the results are there.

        Args:
            when: :data:`BEFORE` or :data:`AFTER` the edits.
            model: the model.
            tokenizer: its tokenizer.
        """
        if self._tasks is None or when in self._results:
            return
        self._results[when] = evaluate_tasks(model, tokenizer, self._tasks)
        if self._folder is not None:
            entries = [{"when": name, "scores": scores} for name, scores in self._results.items()]
            self._folder.rewrite(HARNESS_FILE, entries)

    def summary(self) -> dict[str, Any]:
        """Return the entry of ``summary.json``: each score before and after the edits, by task; empty without tasks."""
        if self._tasks is None:
            return {}
        before, after = self._results[BEFORE], self._results[AFTER]
        return {
            LM_EVAL: {
                task: {
                    metric: {BEFORE: before.get(task, {}).get(metric), AFTER: value} for metric, value in scores.items()
                }
                for task, scores in after.items()
            }
        }
