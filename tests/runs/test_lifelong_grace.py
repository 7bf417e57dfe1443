"""Lifelong runs of GRACE on the tiny models, with edits that succeed and edits that fail."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import LifelongError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.runs.api import run_lifelong
from tests.support.diary_method import FACTS, RETENTION
from tests.support.grace_runs import grace_hparams
from tests.support.run_files import read_lines, select
from tests.support.tiny_models import FAMILIES, build_model, state_of

GRACE_FACTS = [fact for fact in FACTS if "moon" not in fact["prompt"]]


def spoil_training(_: Any, __: Any, output: Any) -> Any:
    """Make an output NaN while a value is trained, and only then."""
    return output * float("nan") if output.requires_grad and torch.is_grad_enabled() else None


def test_scores_equal_a_direct_computation_and_base_weights_stay(family: str, tokenizer: Any, tmp_path: Path) -> None:
    model = build_model(family)
    state = state_of(model)
    scorer = Scorer(tokenizer)
    questions = [(fact["prompt"], fact["target_new"]) for fact in GRACE_FACTS]
    before = scorer.forced(model, questions)
    result = run_lifelong(
        model, tokenizer, GRACE_FACTS, grace_hparams(family), eval_every=2, out=tmp_path / "run", retention=RETENTION
    )
    after = scorer.forced(result.edited_model, questions)
    assert result.metrics["reliability_before"] == sum(score.accuracy for score in before) / 4
    assert result.metrics["ERR"] == sum(score.accuracy for score in after) / 4
    assert result.metrics["ERR"] > result.metrics["reliability_before"]
    assert [entry["status"] for entry in result.journal] == ["edited"] * 4
    entry = read_lines(tmp_path / "run" / "journal.jsonl")[0]
    assert set(entry) >= {"steps", "loss", "seconds", "learned", "key", "radius", "nearest_distance", "n_keys"}
    assert entry["decision"] == "add"
    weights = dict(result.edited_model.state_dict())
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items()), "a base weight changed"


def test_two_runs_with_equal_settings_are_equal(tokenizer: Any) -> None:
    first, second = (
        run_lifelong(build_model("llama"), tokenizer, GRACE_FACTS, grace_hparams(), retention=RETENTION)
        for _ in range(2)
    )
    assert first.metrics == second.metrics
    assert [entry["loss"] for entry in first.journal] == [entry["loss"] for entry in second.journal]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_an_edit_that_fills_the_context_is_made_and_scored(name: str, tokenizer: Any) -> None:
    """A prompt of 63 tokens and its answer fill the context of 64; scoring must not read further."""
    fact = {"prompt": " ".join(["sea", "and", "snow"] * 21), "target_new": "blue"}
    result = run_lifelong(build_model(name), tokenizer, [fact], grace_hparams(name), retention=[])
    assert result.summary["n_edits"] == 1
    assert "generation_match" in result.metrics


# ------------------------------------------------------------------ edits that fail


def test_edits_with_nan_loss_fail_and_leave_the_model_unchanged(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    inputs = tokenizer(GRACE_FACTS[0]["prompt"], return_tensors="pt")
    before, state = llama(**inputs).logits, state_of(llama)
    scorer, questions = Scorer(tokenizer), [(fact["prompt"], fact["target_new"]) for fact in GRACE_FACTS]
    unedited = sum(score.accuracy for score in scorer.forced(llama, questions)) / 4
    answers = [scorer.generate(llama, [prompt], len(target.split()))[0] for prompt, target in questions]
    handle = llama.model.norm.register_forward_hook(spoil_training)
    result = run_lifelong(llama, tokenizer, GRACE_FACTS, grace_hparams(), out=tmp_path / "run", retention=RETENTION)
    handle.remove()
    assert [entry["status"] for entry in result.journal] == ["failed"] * 4
    assert all("nan" in entry["reason"] and "edit_lr" in entry["reason"] for entry in result.journal)
    assert torch.equal(llama(**inputs).logits, before)
    after = state_of(llama)
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert result.summary["n_failed"] == 4
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert [entry["ES"] for entry in result.journal] == [score.accuracy for score in scorer.forced(llama, questions)]
    assert metrics["ES"] == metrics["ERR"] == metrics["reliability"] == metrics["reliability_before"] == unedited
    assert metrics["generality"] == metrics["generality_before"]
    assert metrics["TRR"] == metrics["TRR_before"]
    assert metrics["locality"] == 1.0
    assert (
        metrics["generation_match"]
        == sum(text == fact["target_new"] for text, fact in zip(answers, GRACE_FACTS, strict=True)) / 4
    )
    assert not any(math.isnan(score) for score in metrics.values())


def test_one_failed_edit_leaves_the_keys_of_the_others_only(tokenizer: Any, llama: Any) -> None:
    class SpoilSecondEdit:
        def edited(self, done: int, scores: Mapping[str, float]) -> None:
            if done == 1:
                self.handle = llama.model.norm.register_forward_hook(spoil_training)
            elif done == 2:
                self.handle.remove()

    result = run_lifelong(llama, tokenizer, GRACE_FACTS, grace_hparams(), retention=[], progress=SpoilSecondEdit())
    assert [entry["status"] for entry in result.journal] == ["edited", "failed", "edited", "edited"]
    assert [entry["n_keys"] for entry in result.journal if entry["status"] == "edited"] == [1, 2, 3]
    clean = run_lifelong(
        build_model("llama"), tokenizer, [GRACE_FACTS[0], *GRACE_FACTS[2:]], grace_hparams(), retention=[], eval_every=1
    )
    # The failed fact has no other prompts; on its prompt, the model must be as in a run without the fact.
    scorer, question = Scorer(tokenizer), (GRACE_FACTS[1]["prompt"], GRACE_FACTS[1]["target_new"])
    accuracy = scorer.forced(clean.edited_model, [question])[0].accuracy
    accuracy_before = scorer.forced(build_model("llama"), [question])[0].accuracy
    answer = scorer.generate(clean.edited_model, [question[0]], 2)[0]
    expected = {
        name: pytest.approx((3 * clean.metrics[name] + failed) / 4)
        for name, failed in {
            "ES": accuracy,
            "ERR": accuracy,
            "reliability": accuracy,
            "reliability_before": accuracy_before,
            "generation_match": float(answer == question[1]),
            "generation_match_word": float(answer == question[1]),
        }.items()
    }
    for name in ("generality", "generality_before", "locality", "generation_match_rephrase"):
        expected[name] = clean.metrics[name]
    assert select(result.metrics, expected) == expected


def test_an_overflow_in_the_optimizer_fails_the_edit_and_not_the_run(tokenizer: Any, llama: Any) -> None:
    """Torch's optimizer raises an error; it must not end the run."""
    result = run_lifelong(llama, tokenizer, GRACE_FACTS[:1], grace_hparams(edit_lr=1e38), retention=[])
    assert [entry["status"] for entry in result.journal] == ["failed"]


def test_an_unknown_layer_is_refused_before_a_folder_is_made(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    hparams = GraceHyperParams(model_name="m", inner_params=["model.layers[2].mlp.dwn_proj.weight"])
    with pytest.raises(LifelongError, match=r"Did you mean 'model\.layers\.2.mlp.down_proj'"):
        run_lifelong(llama, tokenizer, GRACE_FACTS, hparams, out=tmp_path / "run", retention=RETENTION)
    assert not (tmp_path / "run").exists(), "a refused run must leave no folder: the next try could not use it"


def test_journal_and_metrics_are_strict_json(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    """NaN and Infinity aren't JSON; other programs refuse them."""
    run_lifelong(
        llama, tokenizer, GRACE_FACTS, grace_hparams(edit_lr=1e30, n_iter=3), out=tmp_path / "run", retention=[]
    )

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for file in ("journal.jsonl", "metrics.jsonl"):
        for line in (tmp_path / "run" / file).read_text().splitlines():
            json.loads(line, parse_constant=refuse)
