"""``calibrate`` uses the calibrator of any method and shows what it returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from easyedit_lifelong import PluginHyperParams, get_plugins, hookimpl
from easyedit_lifelong.commands.main import main
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.base import EditMethod
from easyedit_lifelong.methods.calibrator import CalibrationOutcome, PlotPanel, PlotSeries, ShowStep, TextTable
from tests.support.calibration_records import facts


@dataclass(kw_only=True)
class DialHyperParams(PluginHyperParams):
    """Hyperparameters of a plugin's method."""

    ALG_NAME: ClassVar[str] = "DIAL"
    dial: float
    note: str = "kept"


@dataclass
class DialSettings:
    tries: int


@dataclass
class DialSteps:
    seen: list[float] = field(default_factory=list)


class DialCalibrator:
    name = "the dial"
    accepts = "DIAL with a dial above 0."
    comments: ClassVar[Mapping[str, str]] = {"dial": "turned"}
    fail_at = 99

    def mismatch(self, hparams: DialHyperParams) -> str | None:
        return None if hparams.dial > 0 else f"dial: {hparams.dial}"

    def settings(self, hparams: DialHyperParams, options: Mapping[str, Any]) -> DialSettings:
        return DialSettings(options["tries"])

    def steps(self, values: Mapping[str, Any] | None) -> DialSteps:
        return DialSteps(**(values or {}))

    def run(
        self,
        model: Any,
        tok: Any,
        requests: Sequence[Any],
        hparams: DialHyperParams,
        settings: DialSettings,
        steps: DialSteps,
        save: Callable[[DialSteps], object],
        show: ShowStep,
    ) -> CalibrationOutcome:
        for number in range(len(steps.seen), settings.tries):
            with show(f"try {number}") as progress:
                if number == self.fail_at:
                    raise EditError("the dial is stuck")
                steps.seen.append(hparams.dial * (number + 1))
                progress(1, 1)
            save(steps)
        table = TextTable("Dials", ["dial", "score"], [["a|b", "0.5"]])
        panel = PlotPanel("Dial", "dial", [PlotSeries([(0.0, 0.5), (1.0, 0.25)])], (0.0, 0.5), ticks=["low", "high"])
        return CalibrationOutcome(
            {"dial": steps.seen[-1]},
            {"given": len(requests), "records": 3},
            {"score": 0.5},
            "no paraphrases",
            ["The dial is at its best."],
            [table],
            [table],
            [panel, panel, panel],
            "Dials",
        )


@pytest.fixture
def calibrator() -> Iterator[DialCalibrator]:
    plugins, calibrator = get_plugins(), DialCalibrator()

    class Plugin:
        @hookimpl
        def register_methods(self, register: Callable[[EditMethod], None]) -> None:
            register(EditMethod("DIAL", DialHyperParams, lambda *_, **__: None, calibrate=calibrator))  # type: ignore

    plugin = Plugin()
    plugins.add(plugin, "dial")
    yield calibrator
    plugins.remove("dial")


@pytest.fixture
def command(tmp_path: Path, checkpoint: Path) -> list[str]:
    given = {"alg_name": "DIAL", "model_name": str(checkpoint), "device": "cpu", "dial": 2.0}
    (tmp_path / "dial.yaml").write_text(yaml.safe_dump(given))
    (tmp_path / "facts.json").write_text(json.dumps(facts()))
    return [
        "calibrate",
        "--hparams",
        str(tmp_path / "dial.yaml"),
        "--data",
        str(tmp_path / "facts.json"),
        "--out",
        str(tmp_path / "out"),
        "--sample",
        "7",
    ]


def test_a_plugins_method_is_calibrated(
    calibrator: DialCalibrator, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    output, out = capsys.readouterr().out, tmp_path / "out"
    assert "Calibrating the dial for " in output and " on 7 records of " in output
    for part in ("try 0 …", "Dials", "a|b", "The dial is at its best."):
        assert part in output
    text = (out / "calibrated.yaml").read_text()
    assert text.startswith("# the dial, calibrated ") and "\n# On 3 of 7 records of " in text
    assert "--limit 7" in text and "dial: 4.0 # turned\n" in text
    result = json.loads((out / "calibration.json").read_text())
    assert result["steps"] == {"seen": [2.0, 4.0]} and result["picked"] == {"dial": 4.0}
    assert result["asked"]["tries"] == 2
    assert result["asked"]["hparams"]["note"] == "kept" and "dial" not in result["asked"]["hparams"]
    assert "facts.json; no paraphrases.\n\nThe dial is at its best.\n" in (out / "calibration.md").read_text()
    assert (out / "calibration.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_plugins_calibration_resumes_with_its_saved_steps(
    calibrator: DialCalibrator, command: list[str], tmp_path: Path
) -> None:
    calibrator.fail_at = 1
    assert main(command) == 1
    result = tmp_path / "out" / "calibration.json"
    assert json.loads(result.read_text())["steps"] == {"seen": [2.0]}
    # A changed value shows that the file is read and the step isn't repeated.
    result.write_text(result.read_text().replace("2.0", "5.0"))
    calibrator.fail_at = 99
    assert main([*command, "--resume"]) == 0
    assert json.loads(result.read_text())["steps"] == {"seen": [5.0, 4.0]}


def test_unknown_options_and_unfit_hyperparameters_are_refused(
    calibrator: DialCalibrator, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--false-fire-rate", "0.1"]) == 1
    assert "--false-fire-rate: DIAL has no hyperparameter 'false_fire_rate'" in capsys.readouterr().err
    file = tmp_path / "dial.yaml"
    file.write_text(file.read_text().replace("2.0", "0.0"))
    assert main(command) == 1
    err = capsys.readouterr().err
    assert "dial.yaml: is for dial: 0.0; calibrate is for GRACE by subjects" in err
    assert "Or DIAL with a dial above 0." in err
