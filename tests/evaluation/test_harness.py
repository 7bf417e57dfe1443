"""lm-evaluation-harness gets the edited model, and its scores agree with ours. Skipped where it isn't installed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from easyedit_lifelong import apply_grace_to_model, run_lifelong
from easyedit_lifelong.data.multiple_choice import as_items
from easyedit_lifelong.errors import DataError, HyperParameterError, RunError
from easyedit_lifelong.evaluation.harness import HarnessTasks, check_tasks, evaluate_tasks
from easyedit_lifelong.evaluation.multiple_choice import MultipleChoiceScores
from tests.support.missing_packages import hide_package
from tests.support.prompt_edits import hparams_for
from tests.support.tiny_models import build_model

RECORDS = [
    {"question": "the sea is", "choices": ["blue", "snow", "green cheese"], "answer": 1},
    {"question": "who plays piano", "choices": ["bird", "old king of France"], "answer": 0},
    {"question": "moon", "choices": ["old", "song song", "summer river"], "answer": 2},
    {"question": "the capital of France is", "choices": ["Rome", "Paris", "the old river"], "answer": 0},
]
ITEMS = as_items(RECORDS)


def harness_installed() -> None:
    """Skip a test where lm-evaluation-harness is not installed."""
    pytest.importorskip("lm_eval")


@pytest.fixture
def tasks(tmp_path: Path) -> HarnessTasks:
    """A task of our multiple-choice questions, as a YAML file in a folder, over a local JSON file."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (tmp_path / "questions.json").write_text(json.dumps(RECORDS))
    config = {
        "task": "four_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(tmp_path / "questions.json"), "cache_dir": str(tmp_path / "cache")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }
    (folder / "four_questions.yaml").write_text(yaml.safe_dump(config))
    return HarnessTasks(("four_questions",), str(folder))


def harness_log_likelihoods(model: Any, tokenizer: Any) -> list[list[float]]:
    """Return the harness's log-likelihood of each choice of our questions."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = [(item.prompt, f" {choice}") for item in ITEMS for choice in item.choices]
    requests = [Instance("loglikelihood", {}, text, number) for number, text in enumerate(texts)]
    results = iter(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4).loglikelihood(requests))
    return [[next(results)[0] for _ in item.choices] for item in ITEMS]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_log_likelihoods_and_accuracies_agree_before_and_after_an_edit(
    family: str, tokenizer: Any, tasks: HarnessTasks
) -> None:
    harness_installed()
    model = build_model(family, torch.float64)
    ours = MultipleChoiceScores(tokenizer, model, ITEMS)
    before = ours.log_likelihoods(model)
    sea = ITEMS[0]
    target = sea.choices[min(range(2), key=before[0].__getitem__)]
    for edited in (False, True):
        if edited:
            edit = {"prompt": sea.prompt, "target_new": target}
            apply_grace_to_model(model, tokenizer, [edit], hparams_for(family))
        values = ours.log_likelihoods(model)
        for of_item, theirs in zip(values, harness_log_likelihoods(model, tokenizer), strict=True):
            assert of_item == pytest.approx(theirs, abs=1e-6)
        scores, random_state = evaluate_tasks(model, tokenizer, tasks)["four_questions"], random.getstate()
        accuracies = ours.score(model).values
        assert (scores["acc"], scores["acc_norm"]) == (accuracies["capability"], accuracies["capability_norm"])
        assert scores["acc_stderr"] > 0 or scores["acc"] in (0, 1)
        assert random.getstate() == random_state
    number = sea.choices.index(target)
    assert values[0][number] > before[0][number] + 1, "the harness doesn't see the edit"
    assert values[0][number] == max(values[0])


def test_the_harness_changes_neither_mode_nor_random_state_nor_tokenizer(tokenizer: Any, tasks: HarnessTasks) -> None:
    harness_installed()
    model = build_model("gpt2").train()
    tokenizer.pad_token = None
    states = random.getstate(), torch.random.get_rng_state()
    scores = evaluate_tasks(model, tokenizer, HarnessTasks(tasks.names, tasks.path, limit=2))
    assert scores["four_questions"]["acc"] in (0.0, 0.5, 1.0)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    assert model.training
    assert tokenizer.pad_token is None


def test_a_run_evaluates_the_tasks_before_and_after_and_not_again_when_it_is_resumed(
    tmp_path: Path, tokenizer: Any, tasks: HarnessTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness_installed()
    options: dict[str, Any] = {"out": tmp_path / "run", "lm_eval": tasks.names, "lm_eval_path": tasks.path}
    edit = {"prompt": ITEMS[0].prompt, "target_new": "green cheese"}

    def run(resume: bool) -> Any:
        model = build_model("llama")
        return run_lifelong(model, tokenizer, [edit], hparams_for("llama"), retention=[], resume=resume, **options)

    summary = run(resume=False).summary
    scores = summary["lm_eval"]["four_questions"]["acc"]
    assert set(scores) == {"before", "after"}
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["lm_eval"] == summary["lm_eval"]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["lm_eval"]["tasks"] == ["four_questions"]

    def evaluate(*_: Any) -> Any:
        raise AssertionError("the tasks are evaluated again")

    monkeypatch.setattr("easyedit_lifelong.runs.harness_results.evaluate_tasks", evaluate)
    assert run(resume=True).summary["lm_eval"] == summary["lm_eval"]
    options["lm_eval_limit"] = 2
    with pytest.raises(RunError, match=r"other settings: lm_eval\.limit was None, is 2"):
        run(resume=True)


def test_tasks_that_do_not_exist_or_fail_are_errors(tmp_path: Path, tokenizer: Any, tasks: HarnessTasks) -> None:
    harness_installed()
    with pytest.raises(DataError, match="lm-eval, path of tasks: nothing: is not a folder"):
        check_tasks(HarnessTasks(("four_questions",), "nothing"))
    (tmp_path / "questions.json").unlink()
    with pytest.raises(RunError, match=r"lm-eval, four_questions: \w+: .*questions\.json"):
        evaluate_tasks(build_model("gpt2"), tokenizer, tasks)


def test_an_unknown_task_is_an_error_with_a_suggestion(tasks: HarnessTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    harness_installed()
    manager = __import__("lm_eval.tasks", fromlist=["TaskManager"]).TaskManager
    # Without the thousands of files of the harness's own tasks.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda include_path, **_: manager(None, include_path, False))
    with pytest.raises(HyperParameterError, match=r"no task 'for_questions'\. Did you mean 'four_questions'\?"):
        check_tasks(HarnessTasks(("for_questions",), tasks.path))


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package("lm_eval", monkeypatch)
    with pytest.raises(RunError, match=r"pip install 'easyedit-lifelong\[lm-eval\]'"):
        check_tasks(HarnessTasks(("arc_easy",)))


def test_a_single_round_run_is_refused() -> None:
    from easyedit_lifelong.runs.experiment import CONSECUTIVE, SINGLE_ROUND, Data, Experiment
    from easyedit_lifelong.runs.plan import make_plan

    tasks = HarnessTasks(("arc_easy",))
    experiment = Experiment(CONSECUTIVE, hparams_for("llama"), Data("x"), protocol=SINGLE_ROUND, lm_eval=tasks)
    with pytest.raises(HyperParameterError, match="--lm-eval: a single-round run has no last scoring"):
        make_plan(experiment, None)
