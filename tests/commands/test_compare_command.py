"""``compare``: runs, page and tables; what is refused; failures, interruptions and continuation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from easyedit_lifelong import hookimpl
from easyedit_lifelong.commands import compare_session
from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.evaluation.unedited_answers import UneditedAnswers
from easyedit_lifelong.folder_lock import locked_folder
from easyedit_lifelong.hyperparams import PluginHyperParams
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.reporting.report import page
from easyedit_lifelong.runs.execute import execute
from tests.support.command_line import FACTS, RETENTION, CommandLine, forbid_loading
from tests.support.command_line import HPARAMS as GRACE
from tests.support.run_files import read_lines, without_times


@dataclass(kw_only=True)
class SpoilerHyperParams(PluginHyperParams):
    """Hyperparameters of a method that overwrites a weight and can't restore it."""

    ALG_NAME: ClassVar[str] = "SPOILER"
    breaks: str = ""
    """What fails: nothing, ``check`` or ``apply``."""


class Spoiler:
    """A plugin with this method, which edits one request at a time."""

    @hookimpl
    def register_methods(self, register: Any) -> None:
        register(EditMethod("SPOILER", SpoilerHyperParams, self.apply, check=self.check))

    def check(self, model: Any, tok: Any, hparams: SpoilerHyperParams) -> None:
        if hparams.breaks == "check":
            raise ModelError("this model has no layer to spoil")

    def apply(self, model: Any, tok: Any, requests: Any, hparams: SpoilerHyperParams, **_: Any) -> tuple[Any, None]:
        assert len(requests) == 1
        if hparams.breaks == "apply":
            raise ZeroDivisionError("a mistake in the method")
        with torch.no_grad():
            model.lm_head.weight.zero_()
        return model, None


@pytest.fixture
def spoiler() -> Iterator[None]:
    """The method SPOILER, registered for one test."""
    get_plugins().add(Spoiler(), "test-spoiler")
    yield
    get_plugins().remove("test-spoiler")


class CompareCommand(CommandLine):
    """``compare`` with a folder of valid inputs: two hyperparameter files of GRACE and one of SPOILER."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        self.data, self.retention, self.out = folder / "facts.json", folder / "held.json", folder / "compared"
        self.data.write_text(json.dumps(FACTS))
        self.retention.write_text(json.dumps(RETENTION))
        self.near = self.write("near", **GRACE)
        self.far = self.write("far", **{**GRACE, "eps": 5.0})
        self.spoiler = self.write("spoiler", alg_name="SPOILER")
        self.methods = f"near={self.near},far={self.far}"

    def write(self, name: str, **values: Any) -> Path:
        """Write a hyperparameter file."""
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"model_name": str(self.checkpoint), "device": "cpu", **values}))
        return file

    def run(self, *words: Any, **options: Any) -> tuple[int, str, str]:
        given = {"methods": self.methods, "data": self.data, "retention": self.retention, "out": self.out, **options}
        given.setdefault("edits", "1,3")
        option_words = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        return super().run("compare", *option_words, *words)

    def summary(self, label: str) -> dict[str, Any]:
        """Return the summary of a method's run."""
        return json.loads((self.out / label / "summary.json").read_text())

    def table(self) -> dict[str, Any]:
        """Return the content of the JSON table."""
        return json.loads((self.out / "report" / "table.json").read_text())


@pytest.fixture
def drawing_cli(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> CompareCommand:
    """``compare`` with valid inputs."""
    return CompareCommand(tmp_path, checkpoint, capsys)


@pytest.fixture
def compare_cli(drawing_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch) -> CompareCommand:
    """The same without figures, which take longer to draw than the runs take."""
    monkeypatch.setattr(page, "comparison_plots", lambda runs, names: ([], []))
    return drawing_cli


def test_every_method_has_a_run_and_all_are_on_one_page(drawing_cli: CompareCommand) -> None:
    code, out, err = drawing_cli.run("--eval-sample", 2)
    assert code == 0, err
    near, far = drawing_cli.summary("near"), drawing_cli.summary("far")
    assert (near["hparams"]["eps"], far["hparams"]["eps"]) == (0.5, 5.0)
    for name in ("requests_sha256", "weights", "schedule", "n_requests"):
        assert near[name] == far[name], name
    assert near["schedule"] == {"every": None, "at": [1, 3], "sample": 2}
    files = {file.name for file in (drawing_cli.out / "report").iterdir()}
    assert {"report.html", "table.md", "table.tex", "table.csv", "table.json", "compare-ERR.svg"} <= files
    assert [(run["run"], run["edits"], run["scored"]) for run in drawing_cli.table()["runs"]] == [
        ("near", 3, 2),
        ("far", 3, 2),
    ]
    assert [entry["n_edits"] for entry in drawing_cli.table()["runs"][0]["curve"]] == [1, 3]
    html = (drawing_cli.out / "report" / "report.html").read_text()
    assert "unedited" in html and "near" in html and "peak memory" in html
    lines = out.splitlines()
    assert "[1/2] near: starts; 3 edits, batches of 1" in lines
    assert any(line.startswith("[2/2] far: finished; ") for line in lines)
    assert f"Page: {drawing_cli.out}/report/report.html" in out


def test_no_edit_of_a_method_is_in_the_model_of_the_next(compare_cli: CompareCommand, spoiler: None) -> None:
    """The first method destroys the model for good. The second gets the scores that it gets alone."""
    assert compare_cli.run(methods=f"SPOILER={compare_cli.spoiler},near={compare_cli.near}")[0] == 0
    after_spoiler, spoiled = compare_cli.summary("near"), compare_cli.summary("SPOILER")
    assert spoiled["metrics"]["ERR"] < after_spoiler["metrics"]["ERR"]
    assert compare_cli.run(methods=f"near={compare_cli.near}", out=compare_cli.folder / "alone")[0] == 0
    alone = json.loads((compare_cli.folder / "alone" / "near" / "summary.json").read_text())
    assert alone["metrics"] == after_spoiler["metrics"]
    rollbacks = {run["run"]: run["rollback"] for run in compare_cli.table()["runs"]}
    assert rollbacks == {"SPOILER": "none", "near": "edits"}


def test_a_batch_size_is_for_all_methods_that_edit_batches(compare_cli: CompareCommand, spoiler: None) -> None:
    assert compare_cli.run("--bsz", 2, methods=f"near={compare_cli.near},{compare_cli.spoiler}")[0] == 0
    assert (compare_cli.summary("near")["batch_size"], compare_cli.summary("SPOILER")["batch_size"]) == (2, 1)


def test_finished_runs_are_only_shown_again(compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare_cli.run()[0] == 0
    before = (compare_cli.out / "near" / "summary.json").read_bytes()
    (compare_cli.out / "report" / "table.md").unlink()
    forbid_loading(monkeypatch, compare_session)
    code, out, err = compare_cli.run("--resume")
    assert code == 0, err
    assert "[1/2] near: finished earlier" in out
    assert (compare_cli.out / "report" / "table.md").is_file()
    assert (compare_cli.out / "near" / "summary.json").read_bytes() == before
    assert compare_cli.run(methods=f"far={compare_cli.far}")[0] == 0
    assert [run["run"] for run in compare_cli.table()["runs"]] == ["far"], "the page shows methods that aren't named"
    stored = yaml.safe_load((compare_cli.out / "compare.yaml").read_text())
    assert list(stored["methods"]) == ["near", "far"], "a run's settings are lost"


def test_a_comparison_that_is_older_than_a_hyperparameter_continues(compare_cli: CompareCommand) -> None:
    assert compare_cli.run()[0] == 0
    file = compare_cli.out / "compare.yaml"
    stored = yaml.safe_load(file.read_text())
    assert stored["methods"]["near"].pop("max_length") == 40
    file.write_text(yaml.safe_dump(stored))
    assert compare_cli.run()[0] == 0


def test_the_unedited_model_answers_each_question_for_all_methods_once(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    forced = UneditedAnswers.forced

    def counting_forced(answers: UneditedAnswers, scorer: Any, model: Any, questions: Any) -> Any:
        known = len(answers._forced)
        result = forced(answers, scorer, model, questions)
        asked.append(len(answers._forced) - known)
        return result

    monkeypatch.setattr(UneditedAnswers, "forced", counting_forced)
    assert compare_cli.run()[0] == 0
    assert asked[0] > 0 and asked[1:] == [0]


@pytest.mark.parametrize("moment", ["between the methods", "in the second method"])
def test_a_killed_comparison_continues_and_ends_like_an_uninterrupted_one(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    assert compare_cli.run(out=compare_cli.folder / "whole")[0] == 0

    class Kill(BaseException):
        """No ``except Exception`` handles it."""

    def killed_execute(plan: Any, inputs: Any, model: Any, tokenizer: Any, progress: Any, **options: Any) -> Any:
        if plan.hparams.eps != 5.0:
            return execute(plan, inputs, model, tokenizer, progress, **options)
        if moment == "between the methods":
            raise Kill
        progress.edited = lambda *_: (_ for _ in ()).throw(Kill)  # after the first edit is on disk
        return execute(plan, inputs, model, tokenizer, progress, **options)

    with monkeypatch.context() as patch:
        patch.setattr(compare_session, "execute", killed_execute)
        with pytest.raises(Kill):
            compare_cli.run()
    first = (compare_cli.out / "near" / "summary.json").read_bytes()
    code, out, err = compare_cli.run()
    assert code == 0, err
    state = "starts" if moment == "between the methods" else "continues"
    assert f"[1/2] near: finished earlier\n[2/2] far: {state}; 3 edits" in out
    assert (compare_cli.out / "near" / "summary.json").read_bytes() == first
    for label in ("near", "far"):
        whole = compare_cli.folder / "whole" / label
        for name in ("journal.jsonl", "metrics.jsonl"):
            lines = read_lines(compare_cli.out / label / name)
            assert without_times(lines) == without_times(read_lines(whole / name))
        assert compare_cli.summary(label)["metrics"] == json.loads((whole / "summary.json").read_text())["metrics"]


def test_two_comparisons_cannot_run_in_one_folder(compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    message = f"{compare_cli.out}: another process is running this comparison"
    load = compare_session.load_model_for
    with ExitStack() as other:

        def load_while_another_begins(hparams: Any) -> Any:
            other.enter_context(locked_folder(compare_cli.out, work="running this comparison"))
            return load(hparams)

        monkeypatch.setattr(compare_session, "load_model_for", load_while_another_begins)
        code, _, err = compare_cli.run()
        assert code == 1 and message in err
        assert [file.name for file in compare_cli.out.iterdir()] == [".lock"]
        (compare_cli.out / "compare.yaml").touch()
        forbid_loading(monkeypatch, compare_session)
        assert message in compare_cli.error_of()


def test_what_another_comparison_wrote_meanwhile_is_kept(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, file = compare_session.load_model_for, compare_cli.out / "compare.yaml"

    def load_while_another_runs(hparams: Any) -> Any:
        monkeypatch.setattr(compare_session, "load_model_for", load)
        assert compare_cli.run(methods=f"far={compare_cli.far}")[0] == 0
        return load(hparams)

    monkeypatch.setattr(compare_session, "load_model_for", load_while_another_runs)
    assert compare_cli.run(methods=f"near={compare_cli.near}")[0] == 0
    assert list(yaml.safe_load(file.read_text())["methods"]) == ["far", "near"]


def test_a_run_that_another_comparison_began_meanwhile_is_refused(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = compare_session.load_model_for

    def load_while_another_runs(hparams: Any) -> Any:
        monkeypatch.setattr(compare_session, "load_model_for", load)
        assert compare_cli.run(methods=f"near={compare_cli.near}")[0] == 0
        return load(hparams)

    monkeypatch.setattr(compare_session, "load_model_for", load_while_another_runs)
    code, _, err = compare_cli.run()
    assert code == 1
    assert "another process has begun this comparison meanwhile. The same command continues it." in err
    assert "[1/2] near: finished earlier" in compare_cli.output_of()


def test_a_run_with_a_damaged_summary_is_not_finished(compare_cli: CompareCommand) -> None:
    assert compare_cli.run()[0] == 0
    metrics = compare_cli.summary("far")["metrics"]
    (compare_cli.out / "far" / "summary.json").write_text("{")
    code, out, err = compare_cli.run()
    assert code == 0, err
    assert "[1/2] near: finished earlier\n[2/2] far: continues" in out
    assert compare_cli.summary("far")["metrics"] == metrics


def test_a_run_with_a_damaged_journal_says_what_to_delete(compare_cli: CompareCommand) -> None:
    assert compare_cli.run()[0] == 0
    (compare_cli.out / "far" / "summary.json").unlink()
    (compare_cli.out / "far" / "journal.jsonl").write_text("damaged\n")
    code, out, _ = compare_cli.run()
    assert code == 1
    advice = "Delete this folder; the same command then begins this run again."
    assert (
        f"far failed: {compare_cli.out}/far/journal.jsonl, line 1: is not JSON; this run can't be resumed. {advice}"
        in out
    )


def test_a_method_that_fails_is_reported_and_the_others_run(compare_cli: CompareCommand, spoiler: None) -> None:
    broken = compare_cli.write("broken", alg_name="SPOILER", breaks="apply")
    code, out, _ = compare_cli.run(methods=f"broken={broken},near={compare_cli.near}")
    reason = "ZeroDivisionError: a mistake in the method"
    assert code == 1
    assert f"[1/2] broken: failed: {reason}" in out and "Traceback" not in out
    assert f"broken failed: {reason}" in (compare_cli.out / "report" / "report.html").read_text()
    assert compare_cli.summary("near")["n_edits"] == 3


def test_a_comparison_in_which_every_method_fails_has_no_page(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_session, "execute", lambda *_, **__: 1 / 0)
    code, out, _ = compare_cli.run()
    assert code == 1
    assert "near failed: ZeroDivisionError" in out and "far failed: ZeroDivisionError" in out
    assert not (compare_cli.out / "report").exists()


@pytest.mark.parametrize("options", [(), ("--skip-unusable",)])
def test_a_method_that_cannot_edit_the_model_is_refused_before_the_first_edit(
    compare_cli: CompareCommand, spoiler: None, options: tuple[str, ...]
) -> None:
    compare_cli.data.write_text(json.dumps([{"prompt": " ".join(["sea"] * 64), "target_new": "blue"}]))
    unfit = compare_cli.write("unfit", alg_name="SPOILER", breaks="check")
    message = compare_cli.error_of(*options, methods=f"unfit={unfit},near={compare_cli.near}")
    assert message == "unfit: this model has no layer to spoil"


def test_records_that_one_method_cannot_edit_are_skipped_for_all(compare_cli: CompareCommand) -> None:
    compare_cli.data.write_text(json.dumps([{"prompt": " ".join(["sea"] * 64), "target_new": "blue"}, *FACTS]))
    assert "near: " in compare_cli.error_of(edits="1,4")
    code, out, err = compare_cli.run("--skip-unusable", edits="1,4")
    assert code == 0, err
    assert "left out: near: " in out
    assert [compare_cli.summary(label)["n_edits"] for label in ("near", "far")] == [3, 3]


def test_mistakes_are_refused_before_the_model_loads(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forbid_loading(monkeypatch, compare_session)
    near = compare_cli.near
    missing = tmp_path / "nothing.json"
    assert compare_cli.error_of(data=missing) == f"{missing}: no such data file"
    assert compare_cli.error_of(retention=missing) == f"{missing}: no such retention file"
    assert "two methods are called 'GRACE'" in compare_cli.error_of(methods=f"{near},{compare_cli.far}")
    assert "no such hyperparameter file" in compare_cli.error_of(methods="GRACE/smollm3")
    assert "--methods GRASE: no editing method of that name" in compare_cli.error_of(methods="GRASE")
    for label in ("report", "Compare.yaml"):
        assert f"{label!r} can't be a label" in compare_cli.error_of(methods=f"{label}={near}")
    assert "'a/b' can't be a label" in compare_cli.error_of(methods=f"a/b={near}")
    other = compare_cli.write("other", **{**GRACE, "model_name": "another"})
    assert "different values of model_name (near " in compare_cli.error_of(methods=f"near={near},other={other}")
    seeded = compare_cli.write("seeded", **GRACE, seed=4)
    assert "different seeds (near 0, seeded 4)" in compare_cli.error_of(methods=f"near={near},seeded={seeded}")
    assert "holds no comparison to resume" in compare_cli.error_of("--resume")
    assert compare_cli.run(methods="GRACE,,FT")[0] == 2


def test_a_folder_with_another_comparison_or_run_is_refused(
    compare_cli: CompareCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare_cli.run()[0] == 0
    forbid_loading(monkeypatch, compare_session)
    assert "schedule.at was [1, 3], is [1, 2]" in compare_cli.error_of(edits="1,2")
    assert "recorded.requests_sha256 was" in compare_cli.error_of("--offset", 1)
    changed = compare_cli.write("changed", **{**GRACE, "n_iter": 31})
    assert "methods.near.n_iter was 30, is 31" in compare_cli.error_of(methods=f"near={changed}")
    assert "holds another run, not a comparison" in compare_cli.error_of(out=compare_cli.out / "near")


def test_an_experiment_file_gives_the_same_comparison(compare_cli: CompareCommand, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    values = {
        "loop": "consecutive",
        "methods": ["near=near.yaml", f"far={compare_cli.far}"],
        "data": {"path": "facts.json", "edits": 2, "offset": 1},
        "retention": "held.json",
        "schedule": {"at": [1, 2]},
    }
    file.write_text(yaml.safe_dump(values))
    out = tmp_path / "from-file"
    assert CommandLine.run(compare_cli, "run", file, "--out", out)[0] == 0
    assert compare_cli.run("--offset", 1, edits="1,2")[0] == 0
    stored = [yaml.safe_load((folder / "compare.yaml").read_text()) for folder in (out, compare_cli.out)]
    assert stored[0] == stored[1]
    code, output, err = CommandLine.run(compare_cli, "run", out / "compare.yaml", "--resume")
    assert code == 0, err
    assert "[2/2] far: finished earlier" in output
