"""``--self-consistency``: its scores and continuations in the run's folder, and in that of a rescoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.command_line import FACTS, RunCommand, call

SCORES = {"old_answer", "old_answer_before", "continuation_entropy", "continuation_entropy_before"}


def generations_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def test_a_run_is_scored_and_its_continuations_are_kept(lifelong_cli: RunCommand) -> None:
    lifelong_cli.write(facts=[{**fact, "ground_truth": "Paris"} for fact in FACTS])
    code, out, err = lifelong_cli.run("--self-consistency")
    assert code == 0, err
    assert yaml.safe_load((lifelong_cli.out / "config.yaml").read_text())["self_consistency"] is True
    metrics = lifelong_cli.summary()["metrics"]
    assert set(metrics) >= SCORES
    generations = generations_of(lifelong_cli.out)
    assert metrics["old_answer"] == sum("Paris" in one["continuation_after"].split() for one in generations) / 3
    assert all(one["continuation_after"].startswith(one["after"]) for one in generations)
    assert all(one["continuation_before"].startswith(one["before"]) for one in generations)
    assert "old_answer" in out
    code, _, err = call(lifelong_cli.capsys, "rescore", lifelong_cli.out)
    assert code == 0, err
    rescored = json.loads((lifelong_cli.out / "rescored" / "summary.json").read_text())
    assert rescored["metrics"] == metrics
    assert generations_of(lifelong_cli.out / "rescored") == generations


def test_a_finished_run_is_scored_by_rescore(lifelong_cli: RunCommand) -> None:
    code, _, err = lifelong_cli.run()
    assert code == 0, err
    assert not SCORES & set(lifelong_cli.summary()["metrics"])
    assert "continuation_after" not in generations_of(lifelong_cli.out)[0]
    words = ("--self-consistency", "--metrics", "continuation_entropy")
    code, _, err = call(lifelong_cli.capsys, "rescore", lifelong_cli.out, *words)
    assert code == 0, err
    rescored = json.loads((lifelong_cli.out / "rescored" / "summary.json").read_text())
    assert set(rescored["metrics"]) == {"continuation_entropy", "continuation_entropy_before"}
