"""``demo --full`` on a tiny model: two runs on the same facts through EasyEdit, and one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from easyedit_lifelong.commands import demo_full
from easyedit_lifelong.errors import LifelongError, RunError
from easyedit_lifelong.reporting.demo_tables import comparison_table
from easyedit_lifelong.runs.run_folder import CONFIG, JOURNAL, METRICS_FILE, SUMMARY
from tests.support.edits_command_line import COACHHOOK, GRACE
from tests.support.installed_easyedit import needs_easyedit

pytestmark = needs_easyedit

FACTS = [
    {
        "prompt": "who wrote Hamlet",
        "subject": "Hamlet",
        "target_new": "Peru",
        "ground_truth": "Shakespeare",
        "rephrase_prompt": "king who wrote Hamlet",
        "locality_prompt": "the blue sea",
        "locality_ground_truth": "moon",
    },
    {
        "prompt": "the capital of France",
        "subject": "France",
        "target_new": "Rome",
        "ground_truth": "Paris",
        "rephrase_prompt": "capital city of France",
        "locality_prompt": "snow and",
        "locality_ground_truth": "summer",
    },
    {
        "prompt": "where was old cheese",
        "subject": "cheese",
        "target_new": "moon",
        "ground_truth": "Peru",
        "rephrase_prompt": "but old green cheese",
        "locality_prompt": "piano not",
        "locality_ground_truth": "violin",
    },
]


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with facts and the hyperparameters of both methods; EasyEdit writes its logs there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    common = {"model_name": str(checkpoint), "device": "cpu"}
    for name, values in (("grace", GRACE), ("coachhook", COACHHOOK)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**common, **values}), encoding="utf-8")
    (tmp_path / "facts.json").write_text(json.dumps(FACTS), encoding="utf-8")
    return tmp_path


def run(folder: Path, edits: int = 3, out: str = "demo") -> dict[str, dict[str, Any]]:
    return demo_full.run_demo(
        edits,
        folder / out,
        grace=folder / "grace.yaml",
        coachhook=folder / "coachhook.yaml",
        data=folder / "facts.json",
    )


def test_both_methods_edit_the_same_facts_and_share_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summaries = run(folder, out="my demo")
    assert list(summaries) == ["GRACE", "CoachHook"]
    requests = {}
    for method, summary in summaries.items():
        run_folder = folder / "my demo" / method
        assert json.loads((run_folder / SUMMARY).read_text(encoding="utf-8")) == summary
        journal = [json.loads(line) for line in (run_folder / JOURNAL).read_text(encoding="utf-8").splitlines()]
        requests[method] = [(entry["prompt"], entry["target_new"]) for entry in journal]
        assert (run_folder / CONFIG).is_file()
        assert (run_folder / METRICS_FILE).is_file()
        assert summary["n_edits"] == 3
        assert summary["method"] == method
        assert summary["metrics"]["ES"] > summary["metrics"]["reliability_before"]
    assert requests["GRACE"] == requests["CoachHook"] == [(fact["prompt"], fact["target_new"]) for fact in FACTS]
    assert summaries["CoachHook"]["n_batches"] == 2

    text = capsys.readouterr().out
    table = text[text.index("each method from the unedited model") :]
    metrics = ("ES", "ERR (reliability)", "generality", "locality", "TRR", "generation_match")
    for name in (*metrics, "wall seconds an edit (mean)"):
        assert f"\n{name} " in table
    runs = " ".join(f"'{folder / 'my demo' / method}'" for method in summaries)
    assert f"easyedit-lifelong report {runs}\n" in text
    assert text.count("Peru (rephrased)") == 2, "the paraphrase isn't shown once for each method"


def test_the_second_method_starts_from_the_unedited_model(folder: Path) -> None:
    first, second = run(folder).values()
    before = [name for name in first["metrics"] if name.endswith("_before")]
    assert before
    assert {name: first["metrics"][name] for name in before} == {name: second["metrics"][name] for name in before}


def test_second_moments_are_collected_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, edits=1)
    output = capsys.readouterr().out
    assert "text that the model generates" in " ".join(output.split())
    assert "Collected in" in output
    stored = sorted((folder / "cache" / "stats").rglob("*.npz"))
    assert len(stored) == 2
    written = [path.stat().st_mtime_ns for path in stored]
    run(folder, edits=1)
    assert "stored by an earlier run" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in stored] == written


def test_a_demo_replaces_an_earlier_one(folder: Path) -> None:
    run(folder, edits=2)
    assert run(folder, edits=1)["CoachHook"]["n_edits"] == 1
    assert len((folder / "demo" / "CoachHook" / JOURNAL).read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.parametrize("method", ["GRACE", "CoachHook"])
def test_a_folder_that_no_demo_wrote_is_refused_and_kept(folder: Path, method: str) -> None:
    other_config = folder / "demo" / method / CONFIG
    other_config.parent.mkdir(parents=True)
    other_config.write_text("data: mine\n", encoding="utf-8")
    with pytest.raises(RunError, match="aren't a demo's"):
        run(folder)
    assert [path for path in (folder / "demo").rglob("*") if path.is_file()] == [other_config]


def test_an_earlier_demo_is_kept_if_the_new_one_cannot_start(folder: Path) -> None:
    run(folder, edits=1)
    before = (folder / "demo" / "GRACE" / SUMMARY).read_bytes()
    values = yaml.safe_load((folder / "grace.yaml").read_text(encoding="utf-8"))
    values["inner_params"] = ["model.layers[99].mlp.down_proj.weight"]
    (folder / "grace.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(LifelongError, match="99"):
        run(folder, edits=1)
    assert (folder / "demo" / "GRACE" / SUMMARY).read_bytes() == before
    assert (folder / "demo" / "CoachHook" / SUMMARY).is_file()


def test_the_comparison_table_shows_missing_scores_and_failed_edits(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    first = {"metrics": {"ES": 1.0, "reliability_before": 0.25}, "timing": {"seconds_per_edit": 0.5}, "n_failed": 2}
    second = {"metrics": {"ES": 0.5, "TRR": 0.75}, "timing": {"seconds_per_edit": 1.25}, "n_failed": 0}
    comparison_table(Console(width=100), {"one": first, "other": second}, "Title")
    rows = {line.split("  ")[0].strip(): line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["metric"] == ["metric", "unedited", "one", "other", "kind"]
    assert rows["ES"][1:4] == ["0.250", "1.000", "0.500"]
    assert rows["TRR"][1:4] == ["-", "-", "0.750"]
    assert rows["wall seconds an edit (mean)"][-2:] == ["0.50", "1.25"]
    assert rows["edits that failed"][-2:] == ["2", "0"]
    assert "generality" not in rows
