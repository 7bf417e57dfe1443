"""Reliability, generality, locality, portability and relation specificity equal those of EasyEdit.

EasyEdit computes them in ``compute_edit_quality``, with relation specificity as a locality set. With
EASYEDIT_MAIN=/path/to/EasyEdit, the scores are also compared with a checkout of its main branch.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import easyedit_lifelong
from easyedit_lifelong.bridge import find_easyedit, install
from easyedit_lifelong.data.request import EditRequest, Probe
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.apply import apply_grace_to_model
from easyedit_lifelong.methods.grace.config import GraceHyperParams
from tests.support.tiny_models import FAMILIES, build_model

CHECKOUT = os.environ.get("EASYEDIT_MAIN")

REQUESTS = [
    EditRequest(
        "fr",
        "the capital of France is",
        "Rome",
        rephrase_prompts=("capital of France",),
        locality={
            "near": (Probe("the capital of Peru is", "London city"),),
            "far": (Probe("who plays piano", "the old king of the sea"),),
        },
        portability={"hop": (Probe("language spoken in France", "Spanish and but"),)},
        relation_specificity=(Probe("the sea of France is", "far away and blue"),),
    ),
    EditRequest(
        "ha",
        "who wrote Hamlet",
        "old king of London",
        rephrase_prompts=("Hamlet is made from",),
        locality={"near": (Probe("moon made from", "green cheese and blue sea"),)},
    ),
    EditRequest("mo", "moon made", "from green cheese where the bird song plays"),
]


@pytest.fixture(scope="module")
def compute_edit_quality() -> Callable[..., dict[str, Any]]:
    """EasyEdit's scoring function."""
    if find_easyedit() is None:
        pytest.skip("EasyEdit isn't installed (pip install --no-deps easyeditor==0.0.1.dev0)")
    install()
    importlib.import_module("easyeditor")
    return importlib.import_module("easyeditor.evaluate.evaluate").compute_edit_quality


def as_record(request: EditRequest) -> dict[str, Any]:
    """Return a request as a record with the fields of EasyEdit."""
    record: dict[str, Any] = {"prompt": request.prompt, "target_new": request.target_new, "ground_truth": "Paris"}
    if request.rephrase_prompts:
        record["rephrase_prompt"] = request.rephrase_prompts[0]
    for kind in ("locality", "portability"):
        sets = getattr(request, kind)
        record[kind] = {
            name: {"prompt": probes[0].prompt, "ground_truth": probes[0].answer} for name, probes in sets.items()
        }
    for probe in request.relation_specificity:  # KnowEdit has it among the locality sets
        record["locality"]["Relation_Specificity"] = {"prompt": probe.prompt, "ground_truth": probe.answer}
    return record


def perturb(model: Any, tokenizer: Any, family: str) -> Any:
    """Edit the weights so that some answers become right and others wrong."""
    del tokenizer, family
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.get_output_embeddings().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std() * 0.4)
    return model


def grace(model: Any, tokenizer: Any, family: str) -> Any:
    """Make edits that act at the prompt end; the bridge gives its position to EasyEdit's function."""
    hparams = GraceHyperParams(model_name="m", inner_params=[FAMILIES[family][1]], n_iter=40, eps=20.0)
    return apply_grace_to_model(model, tokenizer, REQUESTS[:2], hparams)[0]


@pytest.mark.parametrize("edit", [perturb, grace])
def test_both_libraries_give_the_same_scores(
    compute_edit_quality: Callable[..., dict[str, Any]], family: str, tokenizer: Any, edit: Any
) -> None:
    model = build_model(family)
    hparams = SimpleNamespace(alg_name="FT", model_name=family, max_length=64, device="cpu")

    def easyedit_scores() -> list[dict[str, Any]]:
        records = [as_record(request) for request in REQUESTS]
        return [compute_edit_quality(model, family, hparams, tokenizer, record, "cpu") for record in records]

    board = Scoreboard(Scorer(tokenizer), model, REQUESTS, [])
    before, unedited = easyedit_scores(), [board.before([request]).values for request in REQUESTS]
    model = edit(model, tokenizer, family)
    after = easyedit_scores()
    ours, _ = board.score_each(model, REQUESTS)
    for request, pre, post, old, new in zip(REQUESTS, before, after, unedited, ours, strict=True):
        assert new["reliability"] == pytest.approx(post["rewrite_acc"], abs=1e-12)
        assert old["reliability_before"] == pytest.approx(np.mean(pre["rewrite_acc"]), abs=1e-12)
        if request.rephrase_prompts:
            assert new["generality"] == pytest.approx(post["rephrase_acc"], abs=1e-12)
            assert old["generality_before"] == pytest.approx(np.mean(pre["rephrase_acc"]), abs=1e-12)
        specific = ["Relation_Specificity"] if request.relation_specificity else []
        for metric, names in (("locality", request.locality), ("relation_specificity", specific)):
            unchanged = [
                np.mean(np.equal(now, then))
                for name in names
                for now, then in zip(post["locality"][f"{name}_output"], pre["locality"][f"{name}_output"], strict=True)
            ]
            assert new[metric] == pytest.approx(unchanged, abs=1e-12)
        portability = [score for name in request.portability for score in post["portability"][f"{name}_acc"]]
        assert new["portability"] == pytest.approx(portability, abs=1e-12)
    scores = [
        score for request_scores in ours for name in ("reliability", "locality") for score in request_scores[name]
    ]
    assert len(set(scores)) > 1, "all scores are equal, so that the test shows nothing"


@pytest.mark.skipif(not CHECKOUT, reason="EASYEDIT_MAIN doesn't name a checkout of EasyEdit")
def test_the_scores_also_agree_with_easyedits_main_branch() -> None:
    root, tests = Path(easyedit_lifelong.__file__).parent.parent, Path(__file__).parent.parent
    path = os.pathsep.join([str(CHECKOUT), str(root), str(tests), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "both_libraries", "--full"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "12 passed" in result.stdout, result.stdout
