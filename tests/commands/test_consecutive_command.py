"""The command `consecutive`: the authors' arguments, what stands in for them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands import consecutive
from easyedit_lifelong.commands import run_session as session
from easyedit_lifelong.commands.consecutive import hparams_from_arguments, shipped_hparams
from easyedit_lifelong.commands.main import build_parser, main
from easyedit_lifelong.data.guess_format import guess_format
from easyedit_lifelong.data.samples import COUNTERFACT, ZSRE
from easyedit_lifelong.errors import HyperParameterError, LifelongError
from easyedit_lifelong.runs.experiment import Data, Experiment
from easyedit_lifelong.runs.schedule import Schedule
from tests.support.command_line import FACTS, HPARAMS, RETENTION, Desk, call


class ConsecutiveDesk(Desk):
    """A folder with good inputs of ``consecutive``."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        self.data, self.hparams, self.out = folder / "facts.json", folder / "grace.yaml", folder / "run"
        self.retention = folder / "retention.json"
        self.data.write_text(json.dumps(FACTS))
        self.retention.write_text(json.dumps(RETENTION))
        self.hparams.write_text(yaml.safe_dump({**HPARAMS, "model_name": str(checkpoint)}))

    def run(self, *words: Any, **options: Any) -> tuple[int, str, str]:
        given = {"hparams": self.hparams, "data": self.data, "out": self.out, "retention": self.retention, **options}
        more = [w for name, value in given.items() if value is not None for w in (f"--{name}", value)]
        return call(self.capsys, "consecutive", *more, *words)

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out / "summary.json").read_text())


@pytest.fixture
def desk(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> ConsecutiveDesk:
    return ConsecutiveDesk(tmp_path, checkpoint, capsys)


# ------------------------------------------------------------------ the arguments

ARGUMENTS = {
    "stats_dir": ("some/stats", "some/stats"),
    "model": ("gpt2-xl", "gpt2-xl"),
    "data": ("f.json", "f.json"),
    "consecutive": ("0", 0),
    "bsz": ("30", 30),
    "mom2_update_weight": ("15000", 15000.0),
    "alpha_z": ("2.2", 2.2),
    "num_layers": ("3", 3),
    "edits": ("100", 100),
    "wohk": ("1", 1),
    "hparams": ("GRACE/gpt2-xl", "GRACE/gpt2-xl"),
    "method": ("MEMIT", "MEMIT"),
    "format": ("zsre", "zsre"),
    "eval_every": ("5", 5),
    "out": ("here", Path("here")),
    "device": ("cpu", "cpu"),
    "retention": ("r.json", "r.json"),
    "eval_at": ("1,10", (1, 10)),
    "eval_sample": ("7", 7),
    "edit_with": ("2", 2),
    "text": ("t.txt", "t.txt"),
    "task": ("qa", "qa"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_argument_is_spelled_both_ways(name: str) -> None:
    written, value = ARGUMENTS[name]
    for spelling in (name, name.replace("_", "-")):
        arguments = build_parser().parse_args(["consecutive", f"--{spelling}", written])
        assert getattr(arguments, name) == value
        assert getattr(build_parser().parse_args(["consecutive", f"--{spelling}={written}"]), name) == value


@pytest.mark.parametrize("name", ["skip_unusable", "skip-unusable", "resume", "consecutive", "wohk"])
def test_switches(name: str) -> None:
    assert getattr(build_parser().parse_args(["consecutive", f"--{name}"]), name.replace("-", "_")) in (True, 1)


def test_what_the_scope_study_takes() -> None:
    """The authors' editing_scope.py has most of them, too."""
    for name in ("stats_dir", "model", "data", "bsz", "mom2_update_weight", "alpha_z", "edits", "hparams"):
        for spelling in (name, name.replace("_", "-")):
            arguments = build_parser().parse_args(["scope", f"--{spelling}", ARGUMENTS[name][0]])
            assert getattr(arguments, name) == ARGUMENTS[name][1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--consecutive", "2"], "--consecutive"),
        (["--wohk", "2"], "--wohk"),
        (["--bsz", "0"], "'0' is not a whole"),
        (["--sample", "-1"], "--edits/--sample"),
        (["--mom2_update_weight", "0"], "'0' is not a number greater than 0"),
        (["--mom2-update-weight", "nan"], "'nan' is not a number"),
        (["--alpha_z", "high"], "--alpha"),
        (["--num_layers", "1.5"], "--num-layers"),
        (["--eval-every", "0"], "--eval-every"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["consecutive", *words])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


# ------------------------------------------------------------------ hyperparameters


def given(*words: Any) -> Any:
    """Return the hyperparameters that a command line gives."""
    arguments = build_parser().parse_args(["consecutive", *map(str, words)])
    return hparams_from_arguments(arguments, arguments.method)


def test_options_take_the_files_place() -> None:
    hparams = given("--bsz", 7, "--device", "cpu", "--model", "other/place", "--hparams", "GRACE/smollm2-135m")
    assert (hparams.batch_size, hparams.device, hparams.model_name) == (7, "cpu", "other/place")
    assert hparams.source.endswith("smollm2-135m.yaml"), "messages still name the file"


def test_coachhooks_own() -> None:
    hparams = given(
        "--stats_dir", "x", "--bsz", 5, "--mom2_update_weight", 20, "--alpha_z", 1.5, "--num_layers", 2, "--wohk"
    )
    assert (hparams.alg_name, hparams.model_name) == ("CoachHook", "smollm2-135m")
    assert (hparams.stats_dir, hparams.batch_size, hparams.mom2_update_weight) == ("x", 5, 20.0)
    assert (hparams.alpha_z, hparams.num_layers, hparams.wohk) == (1.5, 2, True)
    with pytest.raises(HyperParameterError, match="num_layers: 9 is more than"):
        given("--num_layers", 9)


@pytest.mark.parametrize("option", ["mom2_update_weight", "alpha_z", "num_layers", "wohk"])
def test_an_option_that_the_method_has_no_use_for(option: str) -> None:
    with pytest.raises(HyperParameterError, match=f"--{option}: GRACE has no hyperparameter '{option}'"):
        given(f"--{option}", 1, "--method", "GRACE")


@pytest.mark.parametrize(
    ("asked", "file"),
    [
        ("gpt2-xl", "gpt2-xl"),
        ("EleutherAI/gpt-j-6B", "gpt-j-6B"),
        ("gpt-j-6b", "gpt-j-6B"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("/models/Mistral-7B/", "mistral-7b"),
        ("smollm2-135m", "smollm2-135m"),
    ],
)
def test_a_models_file(asked: str, file: str) -> None:
    assert shipped_hparams("GRACE", asked).stem == file


def test_a_models_name_is_the_one_given() -> None:
    def named(model: str) -> Any:
        return given("--model", model, "--method", "GRACE").model_name

    assert named("/models/gpt2-xl") == "/models/gpt2-xl"
    assert named("EleutherAI/gpt-j-6B") == "EleutherAI/gpt-j-6B"
    assert named("GPT2-XL") == given("--hparams", "GRACE/gpt2-xl").model_name


def test_a_model_without_a_file() -> None:
    with pytest.raises(HyperParameterError, match=r"--model gpt3: no hyperparameters of GRACE ship for it \(.*gpt2-xl"):
        shipped_hparams("GRACE", "gpt3")


def test_methods() -> None:
    memit = given("--mom2_update_weight", 5.0, "--bsz", 3, "--method", "MEMIT")
    assert type(memit).__module__.startswith("easyeditor")
    assert (memit.mom2_update_weight, memit.batch_size, memit.model_name) == (5.0, 3, "smollm2-135m")
    with pytest.raises(HyperParameterError, match="--num_layers: MEMIT has no hyperparameter"):
        given("--num_layers", 2, "--method", "MEMIT")
    with pytest.raises(LifelongError, match=r"--method GRAC: no editing method.*Did you mean 'GRACE'\?"):
        given("--method", "GRAC")
    with pytest.raises(LifelongError, match=r"--method IKE: .*only methods that rewrite weights"):
        given("--method", "IKE")
    with pytest.raises(HyperParameterError, match="--method MEMIT: GRACE/gpt2-xl is for 'GRACE'"):
        given("--method", "MEMIT", "--hparams", "GRACE/gpt2-xl")


# ------------------------------------------------------------------ data


def test_formats_are_told_apart(tmp_path: Path) -> None:
    assert guess_format(COUNTERFACT) == "counterfact"
    assert guess_format(ZSRE) == "zsre"
    for name, content, expected in (
        ("facts.json", json.dumps(FACTS), "json"),
        ("my-counterfact.json", json.dumps(FACTS[1:]), "json"),
        ("odd.json", ZSRE.read_text(), "zsre"),
        ("counterfact-edit.json", "[", "counterfact"),
        ("zsre_mend_eval.json", "", "zsre"),
        ("zsre.jsonl", json.dumps(FACTS[0]), "json"),
        ("what.json", "5", "json"),
        ("rephrased.jsonl", '{"input": "p", "output": []}', "zsre-rephrased"),
        (
            "hallucination-edit.json",
            json.dumps([{"prompt": "p", "target_new": "t", "locality_prompt": "l"}]),
            "hallucination",
        ),
    ):
        path = tmp_path / name
        path.write_text(content)
        assert guess_format(path) == expected, name
    assert guess_format(tmp_path / "gone-zsre.json") == "zsre"
    assert guess_format("hub:somebody/counterfact:train") == "counterfact"


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize("protocol", [1, 0])
def test_a_run(desk: ConsecutiveDesk, protocol: int) -> None:
    code, out, err = desk.run("--bsz", 2, "--consecutive", protocol, "--eval-every", 1, "--track", "csv")
    assert code == 0, err
    summary = desk.summary()
    assert summary["protocol"] == ("consecutive" if protocol else "single-round")
    assert (summary["n_edits"], summary["batch_size"], summary["n_batches"], summary["eval_every"]) == (3, 2, 2, 1)
    assert (summary["method"], summary["data"]) == ("GRACE", str(desk.data))
    for word in (
        "ES",
        "reliability",
        "locality",
        "batches of 2",
        summary["protocol"],
        "3/3 edits",
        "s an edit; 0 failed",
    ):
        assert word in " ".join(out.split())
    assert (desk.out / "metrics.csv").exists()


@pytest.mark.parametrize("option", ["--edits", "--sample", "--limit"])
def test_fewer_records(desk: ConsecutiveDesk, option: str) -> None:
    assert desk.run(option, 2)[0] == 0
    assert desk.summary()["n_requests"] == 2


def test_where_results_go_by_default(desk: ConsecutiveDesk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert desk.run(out=None)[0] == 0
    assert (tmp_path / "runs" / "consecutive" / "GRACE-tiny-llama-facts" / "summary.json").is_file()


def test_records_left_out_are_listed(desk: ConsecutiveDesk) -> None:
    desk.data.write_text(json.dumps([*FACTS, {"prompt": " ".join(["sea"] * 64), "target_new": "blue"}]))
    assert "context is 64" in desk.refused()
    code, out, _ = desk.run("--skip-unusable")
    assert code == 0
    assert "1 skipped" in out
    assert "left out: " in out
    assert desk.summary()["skipped"][0]["case_id"] == 3


def test_a_second_run_there(desk: ConsecutiveDesk) -> None:
    assert desk.run()[0] == 0
    code, _, err = desk.run(model="/nothing/there")
    assert code == 1
    assert "holds another run" in err, "and that is said before the model loads"
    assert "--resume goes on with it" in err


def test_resume_from_the_command_line(desk: ConsecutiveDesk) -> None:
    """In a single round, every batch stands alone: no state is needed."""
    assert desk.run("--consecutive", 0, "--bsz", 2)[0] == 0
    whole = desk.summary()
    (desk.out / "summary.json").unlink()
    journal = desk.out / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))
    code, _, err = desk.run("--consecutive", 0, "--bsz", 2, "--resume")
    assert code == 0, err
    assert desk.summary()["metrics"] == whole["metrics"]
    code, _, err = desk.run("--consecutive", 0, "--bsz", 3, "--resume")
    assert code == 1
    assert "batch_size was 2, is 3" in err


# ------------------------------------------------------------------ refusals


def test_refusals(desk: ConsecutiveDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr(session, "load_model_for", load)
    nothing = desk.folder / "nothing.json"
    assert desk.refused(data=nothing) == f"{nothing}: no such data file"
    assert desk.refused(retention=nothing) == f"{nothing}: no such retention file"
    assert "no such hyperparameter file" in desk.refused(hparams="nothing")
    assert "Did you mean 'zsre'?" in desk.refused("--format", "zrse")
    assert "record 0, field 'src'" in desk.refused("--format", "zsre")
    assert "no tracker is called 'abacus'" in desk.refused("--track", "abacus")
    assert "--alpha_z: GRACE has no hyperparameter 'alpha_z'" in desk.refused("--alpha-z", 2)
    assert "--method CoachHook: " in desk.refused("--method", "CoachHook")
    assert desk.refused(out=desk.data) == f"{desk.data}: is a file; --out must name a folder"
    desk.hparams.write_text(yaml.safe_dump({**HPARAMS, "alg_name": "ROMEO", "model_name": "m"}))
    assert "alg_name: EasyEdit has no method 'ROMEO'. Did you mean 'ROME'?" in desk.refused()


def test_nothing_to_resume(desk: ConsecutiveDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Any) -> Any:
        raise AssertionError("the model was loaded before everything was checked")

    monkeypatch.setattr(session, "load_model_for", load)
    assert "holds no run to resume" in desk.refused("--resume", "--consecutive", 0)


def test_the_experiment_is_that_of_the_command_line(desk: ConsecutiveDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(consecutive, "run_and_report", lambda *given: seen.append(given))
    code, _, err = desk.run(
        "--bsz",
        4,
        "--device",
        "cpu",
        "--eval_every",
        6,
        "--sample",
        8,
        "--format",
        "json",
        "--skip_unusable",
        "--resume",
        "--track",
        "csv",
        "--method",
        "GRACE",
        "--consecutive",
        0,
        "--model",
        "m",
        "--eval-at",
        "9,3",
        "--eval-sample",
        5,
        "--edit-with",
        2,
        "--text",
        "t",
        "--task",
        "generation",
    )
    assert code == 0, err
    ((experiment, out, resume),) = seen
    hparams = experiment.hparams
    assert (hparams.alg_name, hparams.batch_size, hparams.device, hparams.model_name) == ("GRACE", 4, "cpu", "m")
    assert experiment == Experiment(
        "consecutive",
        hparams,
        Data(str(desk.data), "json", 8, 2),
        retention=str(desk.retention),
        text="t",
        task="generation",
        skip_unusable=True,
        protocol="single-round",
        schedule=Schedule(6, (3, 9), 5),
        trackers=["csv"],
    )
    assert (out, resume) == (desk.out, True)


def test_the_experiment_of_a_command_line_without_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(consecutive, "run_and_report", lambda *given: seen.append(given))
    assert call(capsys, "consecutive")[0] == 0
    ((experiment, out, resume),) = seen
    assert experiment == Experiment("consecutive", experiment.hparams, Data(str(COUNTERFACT), None, 100), trackers=[])
    assert (out, resume) == (Path("runs/consecutive/CoachHook-smollm2-135m-counterfact"), False)
