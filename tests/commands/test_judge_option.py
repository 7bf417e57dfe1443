"""``--judge``: its scores, the verdicts in the folder, resuming and rescoring, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from easyedit_lifelong import hookimpl
from easyedit_lifelong.evaluation.judges import Verdict
from easyedit_lifelong.plugins import get_plugins
from easyedit_lifelong.registry import JudgeType
from tests.support.command_line import RunCommand, call


class StrictJudge:
    """A plugin with a judge that gives an answer the score in its argument if it equals the target."""

    def __init__(self) -> None:
        self.judged = 0
        self.fails = False

    @hookimpl
    def register_judges(self, register: Any) -> None:
        register(JudgeType("strict", self.create, "compares with case"))

    def create(self, argument: str) -> Any:
        def judge(answers: Any) -> list[Verdict]:
            if self.fails:
                raise KeyboardInterrupt
            self.judged += len(answers)
            return [Verdict(float(argument) * (answer.output == answer.target), "why") for answer in answers]

        return judge


@pytest.fixture
def strict() -> Iterator[StrictJudge]:
    plugin = StrictJudge()
    get_plugins().add(plugin, "strict-judge")
    yield plugin
    get_plugins().remove("strict-judge")


def test_a_run_is_judged_and_its_verdicts_are_kept(lifelong_cli: RunCommand, strict: StrictJudge) -> None:
    code, out, err = lifelong_cli.run("--judge", "strict:0.5")
    assert code == 0, err
    metrics = lifelong_cli.summary()["metrics"]
    verdicts = [json.loads(line) for line in (lifelong_cli.out / "judgements.jsonl").read_text().splitlines()]
    assert {verdict["score"] for verdict in verdicts} <= {0.0, 0.5}
    assert {verdict["reason"] for verdict in verdicts} == {"why"}
    right = {(verdict["prompt"], verdict["output"]): verdict["score"] for verdict in verdicts}
    answers = [json.loads(line) for line in (lifelong_cli.out / "generations.jsonl").read_text().splitlines()]
    scores = [right[answer["prompt"], answer["after"]] for answer in answers]
    assert metrics["judge_score"] == pytest.approx(sum(scores) / len(scores))
    assert metrics["judge_score_before"] == 0
    assert "judge_score" in out


def test_a_resumed_run_judges_no_answer_twice(lifelong_cli: RunCommand, strict: StrictJudge) -> None:
    code, _, err = lifelong_cli.run("--judge", "strict:1")
    assert code == 0, err
    judged, metrics = strict.judged, lifelong_cli.summary()["metrics"]
    (lifelong_cli.out / "summary.json").unlink()
    (lifelong_cli.out / "metrics.jsonl").unlink()
    code, _, err = lifelong_cli.run("--judge", "strict:1", "--resume")
    assert code == 0, err
    assert (strict.judged, lifelong_cli.summary()["metrics"]) == (judged, metrics)


def test_a_finished_run_is_judged_by_rescore(lifelong_cli: RunCommand, strict: StrictJudge) -> None:
    lifelong_cli.run()
    code, _, err = call(
        lifelong_cli.capsys, "rescore", lifelong_cli.out, "--judge", "match", "--metrics", "judge_score"
    )
    assert code == 0, err
    summary = json.loads((lifelong_cli.out / "rescored" / "summary.json").read_text())
    assert set(summary["metrics"]) == {"judge_score", "judge_score_before"}
    assert (lifelong_cli.out / "rescored" / "judgements.jsonl").is_file()


def test_an_unusable_judge_is_refused_before_anything_is_written(
    lifelong_cli: RunCommand, consecutive_cli: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "no judge is called 'matches'. Did you mean 'match'?" in lifelong_cli.error_of("--judge", "matches")
    assert "OPENAI_API_KEY holds no key" in lifelong_cli.error_of("--judge", "openai:m")
    assert "single-round run has no last scoring" in consecutive_cli.error_of("--judge", "match", "--consecutive", 0)
