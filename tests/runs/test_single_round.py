"""The single-round protocol: each batch is scored with its edits alone, then rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import run_consecutive
from easyedit_lifelong.errors import RunError
from tests.support.grace_runs import grace_hparams
from tests.support.ledger_method import (
    FACTS,
    PROMPTS,
    RETENTION,
    Ledger,
    run_ledger,
)
from tests.support.registry import replace_method
from tests.support.run_files import read_lines
from tests.support.table_model import TableModel
from tests.support.tiny_models import build_model, state_of

GRACE_FACTS = [fact for fact in FACTS if "moon" not in fact["prompt"]]


def test_each_record_is_scored_with_the_edits_of_its_batch_only(ledger: Ledger, table: TableModel) -> None:
    """Of two requests with one prompt, the second would overwrite the first; in separate rounds, both are right."""
    table.learn("capital of France", "Rome")
    before = dict(table.table)
    second_edit = {**FACTS[0], "case_id": "again", "target_new": "Berlin", "rephrase_prompt": []}
    result = run_ledger(table, [FACTS[0], FACTS[1], second_edit], consecutive=False)
    assert table.table == before
    assert ledger.events == ["edit 0", "edit 1", "undo", "edit again", "undo"]
    assert result.metrics["reliability"] == result.metrics["ES"] == result.metrics["ERR"] == 1.0
    assert result.metrics["reliability_before"] == 0.5 / 3
    assert result.metrics["generality"] == result.metrics["generality_before"] == 1.0, "one request has a paraphrase"
    assert result.metrics["generation_match"] == 1.0
    assert result.summary["protocol"] == "single-round"
    assert [entry["n_edits"] for entry in result.journal] == [1, 2, 3]


def test_a_failed_batch_is_scored_on_the_unedited_model(ledger: Ledger, table: TableModel) -> None:
    table.learn("language spoken in Peru", "Spanish")
    result = run_ledger(table, consecutive=False)
    assert ledger.events == ["edit 0", "edit 1", "undo", "edit 4", "undo"]
    assert [entry["ES"] for entry in result.journal] == [1, 1, 0, 1, 1]
    assert result.metrics["reliability"] == 4 / 5
    assert (result.summary["n_edits"], result.summary["n_failed"]) == (3, 2)


def test_averages_are_over_records_and_not_over_batches(ledger: Ledger, table: TableModel) -> None:
    """In batches of two and one, each record has the same weight, also in the scores of the held-out facts."""
    damaging = {"prompt": "the river", "target_new": "blue"}
    result = run_ledger(table, [FACTS[0], FACTS[1], damaging], consecutive=False, eval_every=1)
    assert result.metrics["TRR"] == pytest.approx((1 + 1 + 0) / 3)
    assert [point["TRR"] for point in result.curve] == [1.0, pytest.approx(2 / 3)]
    assert result.metrics["TRR_before"] == 1.0
    assert "TRR_f1_before" not in result.metrics, "there is no TRR_f1 to compare it with"


def test_the_scores_of_each_record_are_in_the_journal(ledger: Ledger, table: TableModel, tmp_path: Path) -> None:
    run_ledger(table, consecutive=False, out=tmp_path / "run")
    first = read_lines(tmp_path / "run" / "journal.jsonl")[0]["scores"]
    assert first["reliability"] == first["locality"] == first["portability"] == first["TRR"] == [1.0]
    assert first["generality"] == [0.0]
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(("consecutive", "expected"), [(True, [1.0, 0.0]), (False, [1.0, 1.0])])
def test_relation_specificity_sees_later_batches_in_the_consecutive_protocol_only(
    ledger: Ledger, table: TableModel, consecutive: bool, expected: list[float]
) -> None:
    """The second batch changes the answer to the first request's probe; a separate round doesn't have that edit."""
    probe = {"relation_specificity_prompt": PROMPTS[3], "relation_specificity_ground_truth": "blue"}
    result = run_ledger(table, [FACTS[0] | probe, FACTS[3]], batch_size=1, consecutive=consecutive, eval_every=1)
    assert [point["relation_specificity"] for point in result.curve] == expected
    assert result.metrics["relation_specificity"] == expected[-1]
    assert result.metrics["locality"] == 1.0
    if not consecutive:
        assert [entry["scores"]["relation_specificity"] for entry in result.journal] == [[1.0], []]


def test_single_round_needs_a_method_that_returns_a_rollback(
    ledger: Ledger, table: TableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(model: Any, *_: Any) -> Any:
        return model, None

    replace_method(monkeypatch, "LEDGER", apply=apply)
    with pytest.raises(RunError, match="LEDGER returns no rollback"):
        run_ledger(table, consecutive=False)


# ------------------------------------------------------------------ GRACE on the tiny models


def test_single_round_restores_the_model_bitwise(family: str, tokenizer: Any) -> None:
    model = build_model(family)
    state, inputs = state_of(model), tokenizer(PROMPTS[0], return_tensors="pt")
    logits = model(**inputs).logits
    result = run_consecutive(
        model, tokenizer, GRACE_FACTS, grace_hparams(family, batch_size=2), consecutive=False, retention=RETENTION
    )
    assert result.metrics["reliability"] > result.metrics["reliability_before"]
    after = state_of(model)
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(model(**inputs).logits, logits)


def test_single_round_scores_equal_those_of_each_batch_on_a_fresh_model(tokenizer: Any) -> None:
    result = run_consecutive(
        build_model("llama"),
        tokenizer,
        GRACE_FACTS,
        grace_hparams(batch_size=2),
        consecutive=False,
        retention=RETENTION,
    )
    separate_runs = [
        run_consecutive(
            build_model("llama"),
            tokenizer,
            GRACE_FACTS[start : start + 2],
            grace_hparams(batch_size=2),
            retention=RETENTION,
        )
        for start in (0, 2)
    ]
    for name in ("reliability", "ES", "generation_match"):
        assert result.metrics[name] == sum(run.metrics[name] for run in separate_runs) / 2
