"""The demo on a tiny model: what it prints, in which order, and what it leaves in its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from easyedit_lifelong import inspect_edits
from easyedit_lifelong.commands import demo, demo_full
from easyedit_lifelong.commands.demo_folders import check_previous_edits, check_previous_run
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.folder_lock import LOCK
from easyedit_lifelong.reporting.demo_tables import other_facts_changed, related_prompts, show_facts
from easyedit_lifelong.reporting.terminal import Console
from easyedit_lifelong.runs.run_folder import CONFIG, SUMMARY
from tests.support.corpus import write_corpus
from tests.support.edits_command_line import COACHHOOK, GRACE
from tests.support.installed_easyedit import needs_easyedit
from tests.support.subject_edits import hparams

FACTS = [
    {
        "case_id": number,
        "prompt": f"who wrote {subject}",
        "subject": subject,
        "target_new": target,
        "ground_truth": "Shakespeare",
        "rephrase_prompt": f"king who wrote {subject}",
        "locality_prompt": "the blue sea",
        "locality_ground_truth": "moon",
        "relation_specificity_prompt": f"language of {subject}",
        "relation_specificity_ground_truth": "Spanish",
    }
    for number, (subject, target) in enumerate([("Hamlet", "Peru"), ("France", "Rome"), ("cheese", "moon")])
]


@pytest.fixture
def compared(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The hyperparameter files of the three methods."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASYEDIT_LIFELONG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "facts.json").write_text(json.dumps(FACTS), encoding="utf-8")
    by_subject = hparams("late-relations", folder=write_corpus(tmp_path, documents=30)).to_dict()
    files = {}
    for name, values in (("GRACE", GRACE), (demo.BY_SUBJECT, by_subject), ("CoachHook", COACHHOOK)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({**values, "model_name": str(checkpoint), "device": "cpu"}), encoding="utf-8")
        files[name] = (str(file), {"seed": 3})
    return files


def run(compared: dict[str, Any], out: Path) -> None:
    demo.run_short_demo(3, out, compared=compared, data=out.parent / "facts.json", facts=(0, 1, 2))


def test_the_demo_corrects_undoes_saves_and_compares(
    tmp_path: Path, compared: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    run(compared, tmp_path / "out")
    text = capfd.readouterr().out
    headings = [line for line in text.splitlines() if line[:2] in ("1.", "2.", "3.", "4.", "5.")]
    assert [line[0] for line in headings] == ["1", "2", "3", "4", "5"]
    assert "king who wrote Hamlet ...\nGRACE model.layers.1.mlp.down_proj: " in text
    records = inspect_edits(tmp_path / "out" / "edits").parts[0].edits
    assert [record["case_id"] for record in records] == [1, 2], "the undone edit was saved"
    assert "who wrote France" in text[text.index("A new process") :], "no other process was asked"
    table = text[text.index("All edits are kept") :]
    assert "TRR is measured on 20 facts (95 % interval of the unedited model: " in " ".join(table.split())
    assert table.splitlines()[3].split() == ["metric", "unedited", "GRACE", "by", "subject", "CoachHook", "kind"]
    for name in ("GRACE", "by-subject", "CoachHook"):
        summary = json.loads((tmp_path / "out" / name / SUMMARY).read_text(encoding="utf-8"))
        assert summary["n_edits"] == 3 and summary["hparams"]["seed"] == 3
        assert "TRR" in summary["metrics"] and "TRR_f1" not in summary["metrics"]
    run(compared, tmp_path / "out")  # replaces the first


def test_folders_of_others_are_refused_before_anything_is_done(
    tmp_path: Path, compared: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "out" / "CoachHook" / CONFIG
    other.parent.mkdir(parents=True)
    other.write_text("data: mine\n", encoding="utf-8")
    with pytest.raises(RunError, match="aren't a demo's"):
        run(compared, tmp_path / "out")
    assert capsys.readouterr().out == "" and other.read_text(encoding="utf-8") == "data: mine\n"


def test_edits_of_others_are_refused_and_kept(tmp_path: Path, compared: dict[str, Any]) -> None:
    run(compared, tmp_path / "out")
    index = tmp_path / "out" / "edits" / "edits.json"
    (tmp_path / "facts.json").write_text(json.dumps([{**fact, "prompt": f"old {fact['prompt']}"} for fact in FACTS]))
    before = index.read_bytes()
    with pytest.raises(RunError, match="edits: holds files that aren't a demo's"):
        run(compared, tmp_path / "out")
    assert index.read_bytes() == before


def test_folders_of_a_demo_that_was_killed_are_free_and_those_of_others_are_not(tmp_path: Path) -> None:
    for name in (LOCK, "requests.jsonl", "retention.json", "edits.safetensors.new"):
        (tmp_path / name).touch()
    check_previous_run(tmp_path)
    check_previous_edits(tmp_path, [])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="holds files that aren't a demo's"):
        check_previous_run(tmp_path)


@needs_easyedit
def test_both_forms_of_the_demo_may_replace_each_other(tmp_path: Path, compared: dict[str, Any]) -> None:
    run(compared, tmp_path / "out")
    files = {"grace": compared["GRACE"][0], "coachhook": compared["CoachHook"][0]}
    demo_full.run_demo(1, tmp_path / "out", data=tmp_path / "facts.json", **files)
    run(compared, tmp_path / "out")


def test_a_new_process_that_fails_ends_the_demo(
    tmp_path: Path, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 2))
    with pytest.raises(RunError, match="the new process ended with 2"):
        run(compared, tmp_path / "out")


def test_a_changed_answer_to_another_question_about_the_subject_is_noticed() -> None:
    paraphrases, other = ("king who wrote Hamlet",), (Probe("language of Hamlet", "Spanish"),)
    request = EditRequest(0, "who wrote Hamlet", "Peru", rephrase_prompts=paraphrases, relation_specificity=other)
    kinds = [kind for _, kind in related_prompts(request)]
    assert kinds == ["the fact", "in other words", "another fact"]
    before = ["a", "b", "c"]
    assert not other_facts_changed([request], [before], [["x", "y", "c"]])
    assert other_facts_changed([request], [before], [["a", "b", "z"]])


@pytest.mark.parametrize(
    ("edits", "facts", "indices"),
    [(3, 7, [0, 2, 4]), (5, 7, [0, 1, 2, 4, 5]), (7, 7, list(range(7))), (9, 7, list(range(7))), (1, 7, [0])],
)
def test_the_compared_facts_are_spread_evenly(edits: int, facts: int, indices: list[int]) -> None:
    requests = [EditRequest(index, f"prompt {index}", "Peru") for index in range(facts)]
    assert [request.case_id for request in demo.spread_evenly(requests, edits)] == indices


def test_methods_for_several_models_are_refused() -> None:
    hparams = {name: SimpleNamespace(model_name=name) for name in ("small", "large")}
    with pytest.raises(ValueError, match="must have the same model_name, not large, small"):
        demo.compare_methods(Console(), None, None, [], hparams, {})


def test_answers_to_a_fact_end_with_its_target_and_others_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    other = (Probe("language of Hamlet", "Spanish"),)
    request = EditRequest(
        0, "who wrote Hamlet", "Peru", rephrase_prompts=("king of Hamlet",), relation_specificity=other
    )
    show_facts(Console(width=80), [request, request], [["a", "b", "c"]] * 2, [["Peru Peru", "Peru", "Peru Peru"]] * 2)
    text = capsys.readouterr().out
    assert text.count("Peru …") == 2 and text.count("Peru Peru") == 2
    assert text.count("… means that the model writes more after the target.") == 1
    show_facts(Console(width=80), [request], [["a", "b", "c"]], [["Peru", "b", "c …"]])
    assert "writes more" not in capsys.readouterr().out


def test_the_printed_commands_run_this_installation(
    tmp_path: Path, compared: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/own venv/easyedit-lifelong"])
    out = tmp_path / "my results"
    demo.run_short_demo(3, out, compared=compared, data=tmp_path / "facts.json", facts=(0, 1, 2))
    text = capfd.readouterr().out
    assert f"\n  '/own venv/easyedit-lifelong' report '{out}/GRACE' '{out}/by-subject' '{out}/CoachHook'\n" in text
    assert f"\n  '/own venv/easyedit-lifelong' generate --edits '{out}/edits' --compare" in text
