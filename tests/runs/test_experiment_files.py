"""Experiment files: the shipped ones can be read, and mistakes are refused with the file and the key."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands.run import run_experiment_file
from easyedit_lifelong.data.samples import ZSRE
from easyedit_lifelong.errors import HyperParameterError, LifelongError
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs.experiment_files import experiment_folders, find_experiment, read_experiment
from easyedit_lifelong.runs.hyperparameter_files import hyperparameters_of
from easyedit_lifelong.runs.schedule import Schedule
from tests.support.command_line import FACTS

SHIPPED = sorted(file for folder in experiment_folders() for file in folder.glob("*.yaml"))


VALID: dict[str, Any] = {
    "loop": "lifelong",
    "hparams": "GRACE/smollm2-135m",
    "data": {"path": "facts.json", "format": "json"},
}


def write_experiment(folder: Path, values: Any, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


# ------------------------------------------------------------------ shipped files


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_experiment_can_be_read(file: Path) -> None:
    experiment = read_experiment(file)
    hparams = hyperparameters_of(experiment)
    assert get_plugins().method_for(hparams) is not None
    assert experiment.data.format in get_plugins().readers
    assert hparams.alg_name.lower() == file.stem.split("-")[0]
    assert find_experiment(file.stem) == file


def test_the_experiments_of_the_papers_are_shipped() -> None:
    models = {file.stem: read_experiment(file).overrides["model_name"] for file in SHIPPED}
    assert models["grace-zsre-t5-small"] == "google/t5-small-ssm-nq"
    assert models["grace-scotus-bert"] == "tomh/scotus-bert"
    assert "gpt2xl" in models["grace-hallucination-gpt2-xl"]
    for data in ("zsre", "counterfact"):
        assert models[f"coachhook-{data}-gpt2-xl"] == "gpt2-xl"
        assert models[f"coachhook-{data}-gpt-j-6B"] == "EleutherAI/gpt-j-6B"
        assert models[f"coachhook-{data}-smollm2-135m"] == models[f"grace-{data}-smollm2-135m"] == "smollm2-135m"


# ------------------------------------------------------------------ reading


def test_every_key_of_an_experiment_file_is_read(tmp_path: Path) -> None:
    experiment = read_experiment(
        write_experiment(
            tmp_path,
            {
                "loop": "consecutive",
                "model": "m",
                "hparams": {"alg_name": "CoachHook"},
                "data": {"path": "hub:a/b:train", "format": "zsre", "edits": 7, "offset": 3, "edit_with": 2},
                "retention": [],
                "text": "t.txt",
                "task": "qa",
                "skip_unusable": True,
                "batch_size": 3,
                "protocol": "single-round",
                "schedule": {"every": 2, "at": [10, 1], "sample": 5},
                "seed": 4,
                "device": "cpu",
                "trackers": ["csv"],
                "schema_version": 2,
                "recorded": {"weights": "x"},
            },
        )
    )
    assert (experiment.loop, experiment.protocol, experiment.batch_size) == ("consecutive", "single-round", 3)
    assert experiment.overrides == {"model_name": "m", "device": "cpu", "seed": 4}
    data = experiment.data
    assert (data.path, data.format, data.edits, data.offset, data.edit_with) == ("hub:a/b:train", "zsre", 7, 3, 2)
    assert (experiment.retention, experiment.text, experiment.skip_unusable) == ((), "t.txt", True)
    assert experiment.schedule == Schedule(2, (1, 10), 5)


def test_sample_data_are_found_by_name(tmp_path: Path) -> None:
    data = read_experiment(write_experiment(tmp_path, {**VALID, "data": {"sample": "zsre"}})).data
    assert (data.path, data.format) == (str(ZSRE), "zsre")


def test_paths_are_relative_to_the_file_else_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = write_experiment(tmp_path, {**VALID, "retention": "facts.json"})
    assert read_experiment(file).data.path == "facts.json", (
        "a file that exists nowhere is taken from the current folder"
    )
    (tmp_path / "facts.json").touch()
    assert read_experiment(file).data.path == read_experiment(file).retention == str(tmp_path / "facts.json")
    assert read_experiment(Path("../mine.yaml")).data.path == "../facts.json"


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("[", "not valid YAML"),
        ("5", "must hold an experiment"),
        ({}, "loop: missing; hparams: missing; data: missing"),
        ({**VALID, "lop": 1}, "unknown key 'lop'. Did you mean 'loop'?"),
        ({**VALID, "loop": "lifelon"}, "loop: 'lifelon' is none of lifelong, consecutive. Did you mean 'lifelong'?"),
        ({**VALID, "loop": 5}, "loop: 5 is not text"),
        ({**VALID, "data": {"pth": "x"}}, "unknown key 'data.pth'. Did you mean 'path'?"),
        ({**VALID, "data": {"format": "json"}}, "data: needs either 'path' or 'sample'"),
        ({**VALID, "data": {"path": "x", "sample": "zsre"}}, "data: needs either 'path' or 'sample'"),
        ({**VALID, "data": {"sample": "zsr"}}, "data.sample: 'zsr' is none of counterfact, zsre. Did you mean 'zsre'?"),
        ({**VALID, "data": {"name": "n"}}, "came from a program"),
        ({**VALID, "data": {"path": "x", "edits": 0}}, "data.edits: 0 is less than 1"),
        ({**VALID, "data": {"path": "x", "offset": -1}}, "data.offset: -1 is less than 0"),
        ({**VALID, "data": {"path": "x", "edits": "all"}}, "data.edits: 'all' is not a whole number or nothing"),
        ({**VALID, "data": 5}, "data: 5 is not a mapping"),
        ({**VALID, "methods": 5}, "methods: 5 is not a list or a mapping"),
        ({**VALID, "schedule": {"evry": 5}}, "unknown key 'schedule.evry'. Did you mean 'every'?"),
        ({**VALID, "schedule": {"every": 0}}, "schedule.every: 0 is less than 1"),
        ({**VALID, "schedule": {"at": 5}}, "schedule.at: 5 is not a list of whole numbers or nothing"),
        ({**VALID, "batch_size": 5}, "batch_size: belongs to the consecutive loop"),
        ({**VALID, "loop": "consecutive", "only_errors": True}, "only_errors: belongs to the lifelong loop"),
        ({**VALID, "loop": "consecutive", "protocol": "once"}, "protocol: 'once' is none of consecutive, single-round"),
        ({**VALID, "retention": [{"prompt": "p"}]}, "retention: must be a file, [] for none, or left out"),
        ({**VALID, "only_errors": "yes"}, "only_errors: 'yes' is not true or false"),
        ({**VALID, "data": {"path": "~nosuchuser/x"}}, "data.path: ~nosuchuser/x: the home folder isn't known"),
        ({**VALID, "data": {"path": "x", "format": "~nosuchuser/x.yaml"}}, "data.format: ~nosuchuser/x.yaml: the home"),
        ({**VALID, "hparams": "~nosuchuser/x"}, "hparams: ~nosuchuser/x: the home folder isn't known"),
        ({**VALID, "text": "~nosuchuser/x"}, "text: ~nosuchuser/x: the home folder isn't known"),
    ],
)
def test_an_invalid_file_is_refused_with_its_path_and_key(tmp_path: Path, values: Any, message: str) -> None:
    file = write_experiment(tmp_path, values)
    with pytest.raises(HyperParameterError) as caught:
        read_experiment(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_an_unknown_task_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"mine\.yaml: task: 'generatoin' is none of .*'generation'"):
        read_experiment(write_experiment(tmp_path, {**VALID, "task": "generatoin"}))


def test_all_mistakes_in_a_file_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"unknown key 'a'\..*unknown key 'data\.b'.*protocol: 'c' is none"):
        read_experiment(write_experiment(tmp_path, {**VALID, "a": 1, "data": {"path": "x", "b": 1}, "protocol": "c"}))


def test_an_unknown_experiment_is_refused_with_a_suggestion() -> None:
    with pytest.raises(HyperParameterError, match=r"grace-zsre-t5: no such .* Did you mean 'grace-zsre-t5-small'\?"):
        find_experiment("grace-zsre-t5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hparams": {"alg_name": "GRACE", "model_name": "m", "inner_params": ["x"], "n_itr": 5}},
            "mine.yaml, hparams: unknown hyperparameter 'n_itr'. Did you mean 'n_iter'?",
        ),
        ({"hparams": {"model_name": "m"}}, "mine.yaml, hparams: alg_name: missing"),
        ({"hparams": "GRACE/gpt3"}, "GRACE/gpt3: no such hyperparameter file"),
        ({"data": {"path": "nothing.json"}}, "mine.yaml, data.path: nothing.json: no such file, neither beside"),
        ({"retention": "nothing.json"}, "mine.yaml, retention: nothing.json: no such file, neither beside"),
        ({"text": "nothing.txt"}, "mine.yaml, text: nothing.txt: can't be read"),
        (
            {"capability": "nothing.json"},
            "mine.yaml, capability: nothing.json: no such file of multiple-choice questions",
        ),
        (
            {"lm_eval": {"limit": 0}},
            "lm_eval: needs 'tasks', a list of names of tasks; lm_eval.limit: 0 is less than 1",
        ),
        ({"lm_eval": {"tasks": ["a"], "pth": "x"}}, "unknown key 'lm_eval.pth'. Did you mean 'path'?"),
        ({"capability": 3}, "mine.yaml: capability: 3 is not text or true or false or nothing"),
        ({"data": {"path": "facts.json", "format": "jsn"}}, "'jsn'. Did you mean 'json'?"),
        ({"data": {"path": "facts.json", "sha256": "ab"}}, "mine.yaml, data.sha256: "),
        ({"trackers": ["abacus"]}, "no tracker is called 'abacus'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], message: str
) -> None:
    def load(_: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr("easyedit_lifelong.commands.run_session.load_model_for", load)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    file = write_experiment(tmp_path, {**VALID, **values})
    with pytest.raises(LifelongError) as caught:
        run_experiment_file(file, argparse.Namespace(out=tmp_path / "run", resume=False))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
