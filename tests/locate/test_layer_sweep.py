"""The sweep edits at every layer, leaves the model as it was, and continues where it was interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.errors import RunError
from easyedit_lifelong.locate.layer_sweep import SweptLayer, rank_correlation, sweep_layers
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from easyedit_lifelong.plugins import get_plugins
from tests.support.tiny_models import build_model, build_tokenizer, state_of

GRACE = GraceHyperParams(
    model_name="tiny", inner_params=["model.layers[2].mlp.down_proj.weight"], device="cpu", n_iter=10, eps=0.5
)
REQUESTS = [
    EditRequest(
        "a",
        "the capital of France is",
        "Rome",
        rephrase_prompts=("capital of France",),
        locality={"neighborhood": (Probe("the moon is", "blue"),)},
    ),
    EditRequest("b", "who wrote Hamlet", "king"),
]


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model("llama")


def sweep(model: Any, out: Path, layers: list[int], **options: Any) -> list[SweptLayer]:
    hparams, requests = options.pop("hparams", GRACE), options.pop("requests", REQUESTS)
    return sweep_layers(
        get_plugins().methods.get("GRACE"), model, build_tokenizer(), requests, hparams, layers, out, **options
    )


def test_every_layer_is_edited_and_rolled_back(model: Any, tmp_path: Path) -> None:
    before, ids = state_of(model), torch.tensor([build_tokenizer()(REQUESTS[0].prompt)["input_ids"]])
    logits = model(ids).logits
    swept = sweep(model, tmp_path, [1, 2])
    assert [(entry.layer, entry.n_edits, entry.n_failed) for entry in swept] == [(1, 2, 0), (2, 2, 0)]
    assert all(set(entry.scores) == {"reliability", "generality", "locality"} for entry in swept)
    assert swept[0].scores["reliability"] == 1
    assert swept[0].scores["locality"] == 1
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model(ids).logits, logits)


def test_a_sweep_continues_after_the_finished_edits(model: Any, tmp_path: Path) -> None:
    first = sweep(model, tmp_path, [1])
    file = tmp_path / "GRACE.json"
    content = json.loads(file.read_text())
    content["layers"]["1"][0]["reliability"] = [0.25]  # shows that this edit isn't made again
    del content["layers"]["1"][1]
    file.write_text(json.dumps(content))
    reported: list[int] = []
    swept = sweep(model, tmp_path, [1, 3], report=lambda entry: reported.append(entry.layer))
    assert reported == [1, 3]
    assert swept[0].scores["reliability"] == (0.25 + 1) / 2 != first[0].scores["reliability"]
    other = GraceHyperParams(**{**GRACE.to_dict(), "n_iter": 20})
    with pytest.raises(RunError, match="sweep with another hparams"):
        sweep(model, tmp_path, [1], hparams=other)
    file.write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        sweep(model, tmp_path, [1])


@pytest.mark.parametrize("of_requests", [False, True])
def test_edits_are_scored_with_the_joiner_that_they_were_made_with(
    model: Any, tmp_path: Path, of_requests: bool
) -> None:
    if of_requests:
        options: dict[str, Any] = {"requests": [replace(request, joiner=" not ") for request in REQUESTS]}
    else:
        options = {"hparams": replace(GRACE, joiner=" not ")}
    (swept,) = sweep(model, tmp_path, [1], **options)
    assert swept.scores["reliability"] > 0.5, "it is 0 if the questions lack the joiner, which begins every answer"


def test_the_combined_score_is_the_harmonic_mean() -> None:
    assert SweptLayer(0, {"reliability": 1.0, "generality": 0.5}, 1, 0).combined == pytest.approx(2 / 3)
    assert SweptLayer(0, {"reliability": 1.0, "generality": 0.0}, 1, 0).combined == 0


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3, 10], [0, 5, 6, 7]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert rank_correlation([1, 1, 1], [3, 2, 1]) is None
