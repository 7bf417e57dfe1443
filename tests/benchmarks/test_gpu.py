"""``benchmarks/gpu.py``, which runs on small models on the CPU here."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from easyedit_lifelong.methods.shared.rollback import Rollback

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu")


def run(script: Any, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    """Run the script; return its exit status, and the JSON of its last line."""
    status = script.main(["--dry", *options])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_dry_run_checks_and_measures_everything(
    script: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, result = run(script, capsys, "--out", str(tmp_path / "gpu.json"))
    assert (status, [check for check in result["checks"] if not check["passed"]]) == (0, [])
    assert {section["state"] for section in result["sections"]} == {"done"}
    assert result["passed"] and result["complete"]
    assert json.loads((tmp_path / "gpu.json").read_text("utf-8")) == result
    methods = ("GRACE", "GRACE by subjects", "CoachHook", "MEMIT-native", "AlphaEdit", "UltraEdit")
    checked = {(check["step"], check["name"]) for check in result["checks"]}
    measured = {(figure["step"], figure["name"]) for figure in result["figures"]}
    for model in ("llama, float32", "gpt2, bfloat16"):
        for method in ("CoachHook in bfloat16", *methods):
            assert (f"{method}, {model}", "edits made on the device") in checked
            assert (f"{method}, {model}", "rollback restores the weights bitwise") in checked
    for model in ("small model for llama3-8b, bfloat16", "small model for gpt2-xl, float32"):
        for method in methods:
            assert (f"{method}, {model}", "edit, alone") in measured
            assert (f"{method}, {model}", "rollback restores the logits bitwise") in checked
    assert ("1,000 keys of width 32", "lookup / decode step") in measured
    assert not any(figure["goal"] for figure in result["figures"] if "8b" in figure["step"])


def test_a_check_that_fails_gives_status_1_and_does_not_stop_the_others(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU and the device disagree, a method has a wrong layer, and the rollback of another one does nothing."""
    small = importlib.import_module("_gpu_small")
    moments = iter([torch.zeros(3, 3), torch.ones(3, 3)])
    monkeypatch.setattr(small, "collect_covariance", lambda *_, **__: {"layer": SimpleNamespace(moment=next(moments))})
    monkeypatch.setattr(script, "DRY_MODELS", [("llama", torch.float32)])
    ultraedit = next(run for run in small.METHODS if run.name == "UltraEdit")

    def apply_for_good(*arguments: Any) -> tuple[Any, Rollback[Any]]:
        model, rollback = ultraedit.entry.apply(*arguments)
        return model, Rollback(lambda: None, on_items=False, results=rollback.results)

    class Permanent(small.MethodRun):  # type: ignore[name-defined, misc]
        entry = property(lambda self: replace(ultraedit.entry, apply=apply_for_good))

    methods = [
        small.MethodRun("wrong layer", "GRACE", lambda target: {"inner_params": ["nowhere"]}),
        Permanent("permanent", "UltraEdit", ultraedit.settings),
        ultraedit,
    ]
    plan = script.sections

    def small_models(*arguments: Any) -> list[Any]:
        section = plan(*arguments)[0]
        return [replace(section, run=lambda part: section.run(part, methods=methods))]

    monkeypatch.setattr(script, "sections", small_models)
    status, result = run(script, capsys)
    assert (status, result["passed"]) == (1, False)
    failed = [(check["step"].split(",")[0], check["name"]) for check in result["checks"] if not check["passed"]]
    assert failed == [
        ("second moments", "the CPU's second moments"),
        ("wrong layer", "runs"),
        ("permanent", "rollback restores the weights bitwise"),
        ("permanent", "rollback restores the logits bitwise"),
    ]
    assert sum(check["step"].startswith("UltraEdit") for check in result["checks"]) == 6


def test_a_section_without_time_is_cut_or_skipped(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, result = run(script, capsys, "--seconds", "0.001")
    assert status == 0
    assert {section["state"] for section in result["sections"]} == {"skipped"}
    assert not result["complete"] and not result["figures"]


def test_a_section_that_begins_nothing_after_its_deadline_keeps_what_it_has(script: Any) -> None:
    module = importlib.import_module("_gpu_report")
    report = module.Report(script.Console(quiet=True), None, {})

    def slow(section: Any) -> None:
        with section.step("first"):
            section.figure("length", 1, "m")
            section.deadline = 0
        with section.step("second"):
            pytest.fail("there is no time for a second step")

    module.run_sections([module.SectionPlan("slow", slow, 1)], 100, report)
    assert [(section["name"], section["state"]) for section in report.sections] == [("slow", "cut")]
    assert [figure.step for figure in report.figures] == ["first"]


def test_a_machine_without_the_device_gets_a_message(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 2
    assert "isn't on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--seconds", "0"], "--seconds must be more than 0"), (["--out", "nowhere/gpu.json"], "no folder nowhere")],
)
def test_a_wrong_option_is_refused_before_anything_runs(
    script: Any, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main(["--dry", *options])
    assert message in capsys.readouterr().err
