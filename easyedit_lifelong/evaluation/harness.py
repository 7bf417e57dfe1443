"""Tasks of lm-evaluation-harness, evaluated on a model in memory. They need the extra ``lm-eval``."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from easyedit_lifelong.errors import DataError, HyperParameterError, ModelError, RunError, did_you_mean
from easyedit_lifelong.models.model_modes import evaluating, kept_random_states
from easyedit_lifelong.paths import expanded_path

HarnessScores = dict[str, dict[str, float]]
"""The scores of tasks: by task, then by metric, such as ``acc`` and ``acc_stderr``."""

_BATCH_SIZE = 16
"""The number of rows in a pass of the harness."""


@dataclass(frozen=True)
class HarnessTasks:
    """Tasks of lm-evaluation-harness.

    Attributes:
        names: the tasks, groups or tags of tasks.
        path: a folder with YAML files of further tasks; None for the harness's own tasks alone.
        limit: use only this many questions of each task; None for all.
    """

    names: tuple[str, ...]
    path: str | None = None
    limit: int | None = None


def check_tasks(tasks: HarnessTasks) -> None:
    """Check that the harness is installed and has the tasks.

    Raises:
        DataError: the folder of further tasks does not exist.
        HyperParameterError: a task does not exist.
        RunError: the harness is not installed.
    """
    _task_manager(tasks)


def evaluate_tasks(model: Any, tokenizer: Any, tasks: HarnessTasks) -> HarnessScores:
    """Return the scores that the harness gives a model, edited or not.

    The harness gets the model as it is, so that it runs with its edits. The harness's seeds do not change the state of
    the random generators outside.

    Args:
        model: a language model of transformers.
        tokenizer: its tokenizer.
        tasks: the tasks.

    Raises:
        DataError: the folder of further tasks does not exist.
        HyperParameterError: a task does not exist.
        RunError: the harness is not installed, or fails, for example because it can't load the data of a task.
    """
    manager = _task_manager(tasks)
    evaluator = importlib.import_module("lm_eval.evaluator")
    models = importlib.import_module("lm_eval.models.huggingface")
    with evaluating(model), kept_random_states():
        try:
            # The harness may give the tokenizer a padding token.
            harness_model = models.HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=_BATCH_SIZE)
            results = evaluator.simple_evaluate(
                harness_model,
                tasks=list(tasks.names),
                task_manager=manager,
                limit=tasks.limit,
                log_samples=False,
                bootstrap_iters=1000,
            )
        except Exception as error:  # tasks load data and run code of many kinds
            reason = " ".join(str(error).split())
            raise RunError(f"lm-eval, {', '.join(tasks.names)}: {type(error).__name__}: {reason}") from error
    return {task: _numbers(values) for task, values in results["results"].items()}


def check_model(model: Any) -> None:
    """Check that the harness can evaluate a model.

    Raises:
        ModelError: it is no model of transformers that generates text.
    """
    if not hasattr(model, "generate") or not hasattr(model, "config"):
        raise ModelError(f"lm-eval: {type(model).__name__} is no language model of transformers. Leave the tasks out.")


def _task_manager(tasks: HarnessTasks) -> Any:
    """Return the harness's index of tasks; see :func:`check_tasks`.

    The harness's own tasks are thousands of files. They are indexed only if the folder lacks a task.
    """
    try:
        manager_class = importlib.import_module("lm_eval.tasks").TaskManager
    except ImportError as error:
        raise RunError(
            f"lm-eval: lm-evaluation-harness can't be imported: {error}. Run: pip install 'easyedit-lifelong[lm-eval]'"
        ) from error
    path = None if tasks.path is None else expanded_path(tasks.path, DataError)
    if path is not None:
        if not path.is_dir():
            raise DataError(f"lm-eval, path of tasks: {tasks.path}: is not a folder")
        manager = manager_class(include_path=str(path), include_defaults=False)
        if not _unknown(tasks, manager):
            return manager
    manager = manager_class(include_path=None if path is None else str(path))
    unknown = _unknown(tasks, manager)
    if unknown:
        raise HyperParameterError(
            f"lm-eval: there is no task {unknown[0]!r}.{did_you_mean(unknown[0], manager.all_tasks)}"
        )
    return manager


def _unknown(tasks: HarnessTasks, manager: Any) -> list[str]:
    """Return the names that no task, group or tag in the harness's index has."""
    return [name for name in tasks.names if not manager.match_tasks([name])]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores in the harness's result of a task. ``acc,none`` becomes ``acc``: no filter was used."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and isinstance(value, (int, float))
    }
