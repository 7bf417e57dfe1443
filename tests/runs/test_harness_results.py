"""The results of lm-evaluation-harness in a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.errors import HyperParameterError, RunError
from easyedit_lifelong.evaluation.harness import HarnessTasks
from easyedit_lifelong.runs.api import run_lifelong
from easyedit_lifelong.runs.harness_results import HarnessResults
from easyedit_lifelong.runs.run_folder import RunFolder

TASKS = HarnessTasks(("arc_easy",))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"scores": {}}, "line 1: when can't be None"),
        ({"when": ["before"], "scores": {}}, "line 1: when can't be"),
        ({"when": "before", "scores": {"arc_easy": 1}}, "line 1: scores can't be"),
        ({"when": "before"}, "line 1: scores can't be None"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, line: Any, message: str) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "lm_eval.jsonl").write_text(json.dumps(line) + "\n")
    try:
        with pytest.raises(RunError, match=rf"lm_eval\.jsonl, {message}"):
            HarnessResults(TASKS, folder, resume=True)
    finally:
        folder.close()


@pytest.mark.parametrize("option", [{"lm_eval_limit": 3}, {"lm_eval_path": "tasks"}])
def test_options_of_tasks_without_tasks_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(HyperParameterError, match=rf"{next(iter(option))}: also give lm_eval"):
        run_lifelong(None, None, [], None, **option)
