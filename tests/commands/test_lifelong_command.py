"""``lifelong``: its output, its files, its refusals, and its exit code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands.main import main
from tests.support.command_line import FACTS, HPARAMS, RETENTION, Desk, call

LONG = " ".join(["sea"] * 64)


class LifelongDesk(Desk):
    """A folder with good inputs of ``lifelong``."""

    def __init__(self, folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder, checkpoint, capsys)
        self.data, self.hparams, self.out = folder / "facts.json", folder / "grace.yaml", folder / "run"
        self.retention = folder / "retention.json"
        self.values = {**HPARAMS, "model_name": str(checkpoint)}
        self.write()

    def write(self, facts: Any = FACTS, retention: Any = RETENTION, **values: Any) -> None:
        self.data.write_text(facts if isinstance(facts, str) else json.dumps(facts), encoding="utf-8")
        self.hparams.write_text(yaml.safe_dump({**self.values, **values}), encoding="utf-8")
        self.retention.write_text(retention if isinstance(retention, str) else json.dumps(retention), encoding="utf-8")

    def run(self, *more: Any, **options: Any) -> tuple[int, str, str]:
        given = {"hparams": self.hparams, "data": self.data, "out": self.out, "retention": self.retention, **options}
        words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
        return call(self.capsys, "lifelong", *words, *more)


@pytest.fixture
def desk(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> LifelongDesk:
    return LifelongDesk(tmp_path, checkpoint, capsys)


# ------------------------------------------------------------------ what works


def test_a_run(desk: LifelongDesk, checkpoint: Path) -> None:
    code, out, err = desk.run("--eval-every", 2)
    assert code == 0, err
    assert sorted(path.name for path in desk.out.iterdir()) == [
        ".lock",
        "config.yaml",
        "generations.jsonl",
        "journal.jsonl",
        "metrics.jsonl",
        "state",
        "summary.json",
    ]
    summary = json.loads((desk.out / "summary.json").read_text())
    assert (summary["method"], summary["model"], summary["data"]) == ("GRACE", str(checkpoint), str(desk.data))
    assert summary["n_edits"] == 3
    points = [json.loads(line)["n_edits"] for line in (desk.out / "metrics.jsonl").read_text().splitlines()]
    assert points == [2, 3]
    for name in ("ES", "ERR", "TRR", "locality", "generation_match"):
        assert name in out
    assert "3/3 edits" in out, "progress, where nobody watches"
    assert "s an edit; 0 failed, 0 skipped" in out
    assert "Traceback" not in out + err


def test_options_reach_the_run(desk: LifelongDesk, checkpoint: Path, tmp_path: Path) -> None:
    desk.write(model_name="nothing", device="cuda:9")
    other = Path(shutil.copytree(checkpoint, tmp_path / "other-model"))
    code, _, err = desk.run(
        "--edits", 2, "--only-errors", "--model", other, "--device", "cpu", "--track", "csv", "--format", "json"
    )
    assert code == 0, err
    summary = json.loads((desk.out / "summary.json").read_text())
    assert (summary["n_requests"], summary["only_errors"], summary["model"]) == (2, True, str(other))
    assert (desk.out / "metrics.csv").read_text().startswith("n_edits,")


def test_the_default_held_out_facts(desk: LifelongDesk) -> None:
    code = main(["lifelong", "--hparams", str(desk.hparams), "--data", str(desk.data), "--out", str(desk.out)])
    assert code == 0
    assert "TRR" in json.loads((desk.out / "summary.json").read_text())["metrics"]


def test_a_schedule(desk: LifelongDesk) -> None:
    code, _, err = desk.run("--eval-at", "1,2", "--eval-sample", 1)
    assert code == 0, err
    lines = [json.loads(line) for line in (desk.out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["n_edits"], line.get("sampled")) for line in lines] == [(1, None), (2, 1), (3, 1)]


def test_a_cut_short_run_goes_on(desk: LifelongDesk) -> None:
    assert desk.run()[0] == 0
    whole = json.loads((desk.out / "summary.json").read_text())
    for name in ("summary.json", "metrics.jsonl"):
        (desk.out / name).unlink()
    journal = desk.out / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]) + '{"status": "edi')
    code, _, err = desk.run("--resume")
    assert code == 0, err
    summary = json.loads((desk.out / "summary.json").read_text())
    assert (summary["metrics"], summary["intervals"]) == (whole["metrics"], whole["intervals"])
    message = desk.run("--resume", "--only-errors")[2]
    assert "only_errors was False, is True" in message
    assert "holds no run to resume" in desk.refused("--resume", out=desk.folder / "nothing")


def test_more_edits_than_there_are(desk: LifelongDesk) -> None:
    assert desk.run("--edits", 100)[0] == 0


def test_names_with_brackets_are_printed_as_they_are(desk: LifelongDesk) -> None:
    """Rich takes [bold] for markup; a path is no markup."""
    data = desk.folder / "facts[bold].json"
    desk.data.rename(data)
    code, out, err = desk.run(data=data, out=desk.folder / "run[red]")
    assert code == 0, err
    unwrapped = out.replace("\n", "")
    assert "facts[bold].json" in unwrapped
    assert "run[red]" in unwrapped


def test_a_folder_that_looks_like_broken_markup(desk: LifelongDesk) -> None:
    """The last line of a run of hours is no place to fail."""
    folder = desk.folder / "a["
    folder.mkdir()
    code, _, err = desk.run(out=folder / "bold]")
    assert code == 0, err


# ------------------------------------------------------------------ bad data


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("{}", "must hold a list of records"),
        ([], "holds no records"),
        ([5], "record 0: must be an object"),
        ([*FACTS, {"prompt": "p"}], "record 3, field 'target_new': is missing"),
        ([*FACTS, {"promt": "p", "target_new": "t"}], "record 3, field 'prompt': is missing. Did you mean 'promt'?"),
        ([*FACTS, {"prompt": "p", "target_new": " "}], "record 3, field 'target_new': is empty"),
        ([*FACTS, {"prompt": 7, "target_new": "t"}], "record 3, field 'prompt': must be text, not a number"),
        ([*FACTS, {**FACTS[0], "case_id": 1}], "field 'case_id': 1 is used before"),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "record 3 (case 3), field 'prompt': "),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "with its answer it has 65 tokens"),
        (
            [*FACTS, {"prompt": "p", "target_new": "t", "ground_truth": LONG}],
            "record 3 (case 3), field 'prompt': with ground_truth it has 65 tokens",
        ),
        (
            [*FACTS, {"prompt": "p", "target_new": "t", "ground_truth": "a b", "rephrase_prompt": LONG[:-4]}],
            "field 'rephrase_prompt': with ground_truth it has 65 tokens",
        ),
        (
            [
                *FACTS,
                {
                    "prompt": "p",
                    "target_new": "t u",
                    "ground_truth": "a",
                    "locality_prompt": LONG[:-4],
                    "locality_ground_truth": "b",
                },
            ],
            "field 'locality_prompt': with target_new it has 65 tokens",
        ),
        (
            [*FACTS, {"prompt": "p\ud83d", "target_new": "t"}],
            "record 3, field 'prompt': holds half a character (\\ud83d, at position 1)",
        ),
        ([*FACTS, {"prompt": LONG, "target_new": "t"}], "context is 64. Shorten it or leave the record out."),
    ],
)
def test_bad_data(desk: LifelongDesk, facts: Any, says: str) -> None:
    desk.write(facts)
    message = desk.refused()
    assert message.startswith(str(desk.data))
    assert says in message


@pytest.mark.parametrize("data_format", ["zsre", "counterfact"])
def test_bad_data_in_the_benchmarks_forms(desk: LifelongDesk, data_format: str) -> None:
    assert f"{desk.data}, record 0, field" in desk.refused(format=data_format)


def test_missing_files(desk: LifelongDesk) -> None:
    nothing = desk.folder / "nothing"
    assert desk.refused(data=nothing) == f"{nothing}: no such data file"
    assert desk.refused(retention=nothing) == f"{nothing}: no such retention file"
    assert desk.refused(hparams=nothing).startswith(f"{nothing}: no such hyperparameter file")
    assert desk.refused(data=desk.folder) == f"{desk.folder}: no such data file"


@pytest.mark.parametrize(
    ("retention", "says"),
    [
        ("[", "not valid JSON"),
        ([{"prompt": "p"}], "record 0, field 'answer'"),
        ([*RETENTION, {"prompt": "", "answer": "a"}], "record 1, field 'prompt'"),
        ([5], "record 0"),
        ({"prompt": "p", "answer": "a"}, "must hold a list"),
        ("5", "must hold a list"),
        ([], "holds no"),
        ([{"prompt": LONG, "answer": "a"}], "context is 64"),
    ],
)
def test_bad_held_out_facts(desk: LifelongDesk, retention: Any, says: str) -> None:
    desk.write(retention=retention)
    assert says in desk.refused()


def test_held_out_facts_that_are_not_text(desk: LifelongDesk) -> None:
    desk.retention.write_bytes(b'[{"prompt": "caf\xe9", "answer": "x"}]')
    assert desk.refused().startswith(f"{desk.retention}: is not UTF-8 text")


def test_an_unknown_format(desk: LifelongDesk) -> None:
    assert "'zrse'. Did you mean 'zsre'?" in desk.refused(format="zrse")


def test_an_unknown_tracker(desk: LifelongDesk) -> None:
    assert "no tracker is called 'abacus'. Known: csv" in desk.refused("--track", "abacus")


# ------------------------------------------------------------------ bad hyperparameters


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_itr": 5}, "unknown hyperparameter 'n_itr'. Did you mean 'n_iter'?"),
        ({"n_iter": "many"}, "n_iter: 'many' is not a whole number"),
        ({"dist_fn": "euk"}, "dist_fn: 'euk' isn't one of euc, cos. Did you mean 'euc'?"),
        ({"alg_name": "GRAC"}, "'GRAC'. Did you mean 'GRACE'?"),
        ({"alg_name": "ROMEO"}, "alg_name: EasyEdit has no method 'ROMEO'. Did you mean 'ROME'?"),
        ({"alg_name": "IKE"}, "only methods that rewrite weights can"),
        ({"alg_name": None}, "alg_name: missing"),
        ({"inner_params": []}, "inner_params: GRACE edits one layer, 0 are named"),
        ({"model_name": None}, "model_name"),
        ({"model_name": 7}, "model_name"),
        ({"model_name": ["a", "b"]}, "model_name"),
    ],
)
def test_bad_hyperparameters(desk: LifelongDesk, values: dict[str, Any], says: str) -> None:
    desk.write(**values)
    message = desk.refused()
    assert message.startswith(str(desk.hparams)), "the file is named"
    assert says in message


def test_hyperparameters_that_are_no_yaml(desk: LifelongDesk) -> None:
    desk.hparams.write_text("a: [")
    assert "not valid YAML" in desk.refused()


def test_a_layer_that_is_not_there(desk: LifelongDesk) -> None:
    desk.write(inner_params=["model.layers[2].mlp.down_prj.weight"])
    message = desk.refused()
    assert "'model.layers[2].mlp.down_prj.weight'" in message
    assert "Did you mean 'model.layers.2.mlp.down_proj'?" in message


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(desk: LifelongDesk, device: str) -> None:
    for options in ({"device": device}, {}):
        desk.write(device=device)
        message = desk.refused(**options)
        assert f"device: {device!r}" in message
        assert "Use one of: auto" in message


def test_an_unknown_dtype(desk: LifelongDesk) -> None:
    desk.write(dtype="float33")
    assert "dtype: 'float33' isn't known. Use one of: auto, float32" in desk.refused()


def test_a_model_folder_that_is_none(desk: LifelongDesk) -> None:
    empty = desk.folder / "empty"
    empty.mkdir()
    assert desk.refused(model=empty) == f"{empty}: this folder holds no model (it has no config.json)."
    assert f"{desk.folder / 'nothing'}: no such folder" in desk.refused(model=desk.folder / "nothing")


# ------------------------------------------------------------------ where the results go


def test_a_folder_that_holds_another_run(desk: LifelongDesk) -> None:
    assert desk.run()[0] == 0
    message = desk.refused()
    assert message.startswith(f"{desk.out}: holds another run")
    assert "--out" in message


def test_that_is_said_before_the_model_loads(desk: LifelongDesk) -> None:
    desk.out.mkdir()
    (desk.out / "journal.jsonl").write_text("")
    assert "holds another run" in desk.refused(model=desk.folder / "nothing")


def test_a_file_where_the_folder_should_be(desk: LifelongDesk) -> None:
    assert desk.refused(out=desk.data) == f"{desk.data}: is a file; --out must name a folder"
    nowhere = desk.folder / "nothing"
    assert "can't make this folder" in desk.refused(out=desk.data / "below" / "deep", model=nowhere), "before it loads"


def test_a_folder_that_nobody_can_make(desk: LifelongDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, really = desk.folder / "closed", os.access
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and really(path, mode))
    message = desk.refused(out=closed / "deep" / "run", model=desk.folder / "nothing")
    assert f"{closed} can't be written to" in message


@pytest.mark.parametrize("option", ["out", "data", "hparams", "retention", "model"])
def test_the_folder_of_somebody_who_is_not_there(desk: LifelongDesk, option: str) -> None:
    assert "~nosuchuser/x: there is no such user here" in desk.refused(**{option: "~nosuchuser/x"})


def test_what_the_system_refuses(desk: LifelongDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", refuse)
    assert desk.refused() == "/some/file: Permission denied"
    code, _, err = desk.run("-v")
    assert (code, "Traceback" in err) == (1, True)


def test_a_failed_start_is_not_in_the_way_of_the_next(desk: LifelongDesk) -> None:
    """The mistake is mended, the command typed again: no leftovers, no "holds another run"."""
    desk.write(inner_params=["model.layers[9].mlp.down_proj"])
    assert desk.run()[0] == 1
    desk.write()
    code, _, err = desk.run()
    assert code == 0, err


def test_verbose_shows_the_traceback(desk: LifelongDesk) -> None:
    desk.write("{")
    code, _, err = desk.run("-v")
    assert code == 1
    assert "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("easyedit-lifelong: ")


def test_interrupted(desk: LifelongDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", stop)
    code, _, err = desk.run()
    assert code == 130
    assert "Traceback" not in err
    assert "interrupted" in err


def test_a_bug_keeps_its_traceback(desk: LifelongDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors raised on purpose are one line; hiding a bug helps nobody."""

    def crash(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("easyedit_lifelong.commands.lifelong.run_and_report", crash)
    with pytest.raises(ZeroDivisionError):
        desk.run()
