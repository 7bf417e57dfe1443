"""Experiment files: read strictly; and a run's own file does the run again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong import run_lifelong
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.commands.run_session import run_experiment_file
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.data.samples import ZSRE
from easyedit_lifelong.errors import HyperParameterError, LifelongError
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.models.load import load_model
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.runs import run_config as records
from easyedit_lifelong.runs.experiment_files import experiment_folders, find_experiment, read_experiment
from easyedit_lifelong.runs.hyperparameter_files import hyperparameters_of
from easyedit_lifelong.runs.schedule import Schedule
from tests.support.command_line import FACTS, HPARAMS, RETENTION

SHIPPED = sorted(file for folder in experiment_folders() for file in folder.glob("*.yaml"))

GOOD: dict[str, Any] = {
    "loop": "lifelong",
    "hparams": "GRACE/smollm2-135m",
    "data": {"path": "facts.json", "format": "json"},
}


def _written(folder: Path, values: Any, name: str = "mine.yaml") -> Path:
    file = folder / name
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


# ------------------------------------------------------------------ those that come with the package


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_experiment_that_ships_can_be_read(file: Path) -> None:
    experiment = read_experiment(file)
    hparams = hyperparameters_of(experiment)
    assert get_plugins().method_for(hparams) is not None
    assert experiment.data.format in get_plugins().readers
    assert hparams.alg_name.lower() == file.stem.split("-")[0]
    assert find_experiment(file.stem) == file


def test_the_papers_experiments_are_there() -> None:
    models = {file.stem: read_experiment(file).overrides["model_name"] for file in SHIPPED}
    assert models["grace-zsre-t5-small"] == "google/t5-small-ssm-nq"
    assert models["grace-scotus-bert"] == "tomh/scotus-bert"
    assert "gpt2xl" in models["grace-hallucination-gpt2-xl"]
    for data in ("zsre", "counterfact"):
        assert models[f"coachhook-{data}-gpt2-xl"] == "gpt2-xl"
        assert models[f"coachhook-{data}-gpt-j-6B"] == "EleutherAI/gpt-j-6B"
        assert models[f"coachhook-{data}-smollm2-135m"] == models[f"grace-{data}-smollm2-135m"] == "smollm2-135m"


# ------------------------------------------------------------------ reading


def test_everything_an_experiment_can_say(tmp_path: Path) -> None:
    experiment = read_experiment(
        _written(
            tmp_path,
            {
                "loop": "consecutive",
                "model": "m",
                "hparams": {"alg_name": "CoachHook"},
                "data": {"path": "hub:a/b:train", "format": "zsre", "edits": 7, "edit_with": 2},
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
    assert (data.path, data.format, data.edits, data.edit_with) == ("hub:a/b:train", "zsre", 7, 2)
    assert (experiment.retention, experiment.text, experiment.skip_unusable) == ((), "t.txt", True)
    assert experiment.schedule == Schedule(2, (1, 10), 5)


def test_sample_data(tmp_path: Path) -> None:
    data = read_experiment(_written(tmp_path, {**GOOD, "data": {"sample": "zsre"}})).data
    assert (data.path, data.format) == (str(ZSRE), "zsre")


def test_paths_lead_from_the_file_or_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = _written(tmp_path, {**GOOD, "retention": "facts.json"})
    assert read_experiment(file).data.path == "facts.json", "not there yet: from the current folder, as ever"
    (tmp_path / "facts.json").touch()
    assert read_experiment(file).data.path == read_experiment(file).retention == str(tmp_path / "facts.json")
    assert read_experiment(Path("../mine.yaml")).data.path == "../facts.json"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("[", "not valid YAML"),
        ("5", "must hold an experiment"),
        ({}, "loop: missing; hparams: missing; data: missing"),
        ({**GOOD, "lop": 1}, "unknown key 'lop'. Did you mean 'loop'?"),
        ({**GOOD, "loop": "lifelon"}, "loop: 'lifelon' is none of lifelong, consecutive. Did you mean 'lifelong'?"),
        ({**GOOD, "loop": 5}, "loop: 5 is not text"),
        ({**GOOD, "data": {"pth": "x"}}, "unknown key 'data.pth'. Did you mean 'path'?"),
        ({**GOOD, "data": {"format": "json"}}, "data: needs either 'path' or 'sample'"),
        ({**GOOD, "data": {"path": "x", "sample": "zsre"}}, "data: needs either 'path' or 'sample'"),
        ({**GOOD, "data": {"sample": "zsr"}}, "data.sample: 'zsr' is none of counterfact, zsre. Did you mean 'zsre'?"),
        ({**GOOD, "data": {"name": "n"}}, "came from a program"),
        ({**GOOD, "data": {"path": "x", "edits": 0}}, "data.edits: 0 is less than 1"),
        ({**GOOD, "data": {"path": "x", "edits": "all"}}, "data.edits: 'all' is not a whole number or nothing"),
        ({**GOOD, "data": 5}, "data: 5 is not a mapping"),
        ({**GOOD, "schedule": {"evry": 5}}, "unknown key 'schedule.evry'. Did you mean 'every'?"),
        ({**GOOD, "schedule": {"every": 0}}, "schedule.every: 0 is less than 1"),
        ({**GOOD, "schedule": {"at": 5}}, "schedule.at: 5 is not a list of whole numbers or nothing"),
        ({**GOOD, "batch_size": 5}, "batch_size: belongs to the consecutive loop"),
        ({**GOOD, "loop": "consecutive", "only_errors": True}, "only_errors: belongs to the lifelong loop"),
        ({**GOOD, "loop": "consecutive", "protocol": "once"}, "protocol: 'once' is none of consecutive, single-round"),
        ({**GOOD, "retention": [{"prompt": "p"}]}, "retention: must be a file, [] for none, or left out"),
        ({**GOOD, "only_errors": "yes"}, "only_errors: 'yes' is not true or false"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, values: Any, says: str) -> None:
    file = _written(tmp_path, values)
    with pytest.raises(HyperParameterError) as caught:
        read_experiment(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"unknown key 'a'\..*protocol: 'c' is none.*unknown key 'data\.b'"):
        read_experiment(_written(tmp_path, {**GOOD, "a": 1, "data": {"path": "x", "b": 1}, "protocol": "c"}))


def test_no_such_experiment() -> None:
    with pytest.raises(HyperParameterError, match=r"grace-zsre-t5: no such .* Did you mean 'grace-zsre-t5-small'\?"):
        find_experiment("grace-zsre-t5")


@pytest.mark.parametrize(
    ("values", "says"),
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
        ({"data": {"path": "facts.json", "format": "jsn"}}, "'jsn'. Did you mean 'json'?"),
        ({"data": {"path": "facts.json", "sha256": "ab"}}, "mine.yaml, data.sha256: "),
        ({"trackers": ["abacus"]}, "no tracker is called 'abacus'"),
    ],
)
def test_what_is_refused_before_the_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], says: str
) -> None:
    def load(_: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr("easyedit_lifelong.commands.run_session.load_model_for", load)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    file = _written(tmp_path, {**GOOD, **values})
    with pytest.raises(LifelongError) as caught:
        run_experiment_file(str(file), tmp_path / "run", False)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ a run's own file


def _same_run(one: Path, other: Path) -> bool:
    left, right = (json.loads((path / "summary.json").read_text()) for path in (one, other))
    for name in ("metrics", "intervals", "requests_sha256", "weights", "hparams", "schedule", "n_requests"):
        assert left[name] == right[name], name
    return True


@pytest.mark.parametrize("command", ["lifelong", "consecutive"])
def test_a_runs_own_file_does_it_again(
    tmp_path: Path, checkpoint: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")  # relative paths, read from elsewhere afterwards
    Path("facts.json").write_text(json.dumps(FACTS))
    Path("held.json").write_text(json.dumps(RETENTION))
    Path("text.txt").write_text("the river and the sea " * 20)
    _written(Path(), {**HPARAMS, "model_name": "nothing"}, "grace.yaml")
    words = [
        "--hparams",
        "grace.yaml",
        "--model",
        str(checkpoint),
        "--out",
        "run",
        "--retention",
        "held.json",
        "--text",
        "text.txt",
        "--eval-at",
        "1,2",
    ]
    own = {
        "lifelong": ["--data", "facts.json", "--only-errors", "--edits", "2"],
        "consecutive": ["--ds_dir", "facts.json", "--bsz", "2", "--consecutive", "0"],
    }
    assert main([command, *words, *own[command]]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["run", "work/run/config.yaml", "--out", "again"]) == 0
    assert _same_run(tmp_path / "work" / "run", tmp_path / "again")
    if command == "lifelong":
        assert main(["run", "again/config.yaml"]) == 0, "the default folder isn't the run's own"
        assert _same_run(tmp_path / "again", tmp_path / "runs" / "again-again")
    (tmp_path / "again" / "summary.json").unlink()
    assert main(["run", "again/config.yaml", "--resume"]) == 0, "but it is when it goes on"
    assert (tmp_path / "again" / "summary.json").exists()
    (tmp_path / "work" / "facts.json").write_text(json.dumps(FACTS[:2]))
    assert main(["run", "work/run/config.yaml", "--out", "other"]) == 1, "the data have changed"


def test_data_from_a_program_lie_beside_the_file(tmp_path: Path, checkpoint: Path) -> None:
    hparams = GraceHyperParams(**{**HPARAMS, "model_name": load_model(checkpoint, "cpu")})
    asked = {"relation_specificity_prompt": "the river and", "relation_specificity_ground_truth": "the sea"}
    run_lifelong(
        *hparams.model_name,
        [FACTS[0] | asked, *FACTS[1:]],
        hparams,
        out=tmp_path / "run",
        retention=[Probe("the river is", "blue")],
        data_name="mine",
        text="the river and the sea " * 20,
    )
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    left, right = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "again"))
    assert (left["metrics"], left["requests_sha256"]) == (right["metrics"], right["requests_sha256"])
    assert "relation_specificity" in left["metrics"]


def test_data_of_earlier_versions_are_known_again() -> None:
    """Else no run that was begun before there was relation specificity could be resumed."""
    record = {"prompt": "the capital of France is", "target_new": "Rome", "rephrase_prompt": "France"}
    record["locality"] = {"near": {"prompt": "p", "ground_truth": "a"}}
    held_out = [Probe("moon", "cheese")]
    request = EditRequest.from_dict(record, "f", 0)
    assert records.requests_digest([request], held_out, "text") == "b1ff7eb7bdfb2801"
    other = dataclasses.replace(request, relation_specificity=(Probe("p", "a"),))
    assert records.requests_digest([other], held_out, "text") != "b1ff7eb7bdfb2801"


@pytest.mark.parametrize("name", ["./m/tiny", "m/tiny", "tiny"])
def test_a_run_of_a_model_given_relatively_is_its_own(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its file names the model in full, wherever it is resumed or run again from."""
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    shutil.copytree(checkpoint, place)
    _written(tmp_path, json.dumps(FACTS), "facts.json")
    _written(tmp_path, {**HPARAMS, "model_name": name}, "grace.yaml")
    monkeypatch.chdir(tmp_path)
    assert main(["lifelong", "--hparams", "grace.yaml", "--data", "facts.json", "--out", "run", "--edits", "1"]) == 0
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["model"], written["hparams"]["model_name"]) == (str(place.resolve()), name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--resume"]) == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_the_name_of_our_own_model_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("smollm2-135m", "gpt2"):
        (tmp_path / name).mkdir()
    (tmp_path / "x.gguf").touch()
    (tmp_path / "gpt2-xl").touch()
    monkeypatch.chdir(tmp_path)
    placed = {
        name: records._with_absolute_path(name) for name in ("smollm2-135m", "gpt2", "gpt2-xl", "org/name", "x.gguf")
    }
    assert placed == {
        "smollm2-135m": "smollm2-135m",
        "gpt2": str(tmp_path / "gpt2"),
        "gpt2-xl": "gpt2-xl",
        "org/name": "org/name",
        "x.gguf": str(tmp_path / "x.gguf"),
    }


def test_a_model_that_does_not_say_where_it_came_from(tmp_path: Path, checkpoint: Path) -> None:
    """The name of its class loads nothing; what the hyperparameters name does."""
    model, tokenizer = load_model(checkpoint, "cpu")
    model.config._name_or_path = ""
    hparams = GraceHyperParams(**{**HPARAMS, "model_name": str(checkpoint)})
    run_lifelong(model, tokenizer, FACTS[:1], hparams, out=tmp_path / "run", retention=[])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"] == str(checkpoint)
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "again")]) == 0


def test_a_held_out_text_keeps_its_line_ends(tmp_path: Path, checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, "cpu")
    hparams, text = GraceHyperParams(**{**HPARAMS, "model_name": str(checkpoint)}), "the river\r\nand the sea\r" * 20
    run_lifelong(model, tokenizer, FACTS[:1], hparams, out=tmp_path / "run", retention=[], text=text)
    assert (tmp_path / "run" / "text.txt").read_bytes() == text.encode()
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["run", str(tmp_path / "run" / "config.yaml"), "--resume"]) == 0, "it is the same text"


def test_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(HyperParameterError, match=r"mine\.yaml: task: 'generatoin' is none of .*'generation'"):
        read_experiment(_written(tmp_path, {**GOOD, "task": "generatoin"}))
