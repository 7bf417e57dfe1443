"""The studies of a calibration, against arithmetic by hand: key layers, relation gates and trial edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.calibration import choice
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import auc, study_gates, try_edits
from easyedit_lifelong.methods.grace.calibration.key_layer_study import (
    COS,
    EUC,
    WHITENED,
    study_key_layers,
)
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.study_texts import StudyTexts
from easyedit_lifelong.methods.grace.calibration.usable_records import add_relation_probes
from easyedit_lifelong.methods.grace.codebook.relation_metric import RelationMetric
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.shared.subject_keys.whitening import whitened
from easyedit_lifelong.methods.shared.subject_positions import subject_position
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.calibration_records import records
from tests.support.tiny_models import build_model, build_tokenizer, state_of

KEY_LAYER, ANSWER_LAYER = "model.layers.1.mlp.gate_proj", "model.layers.3.mlp"


def distances_by_hand(
    model: Any, tokenizer: Any, requests: list[EditRequest], basis: Tensor | None, distance: str
) -> Any:
    """Return the distances of every paraphrase, and of every locality prompt's nearest token, to every key."""
    runner, layer = Runner(model, tokenizer), find_module(model, KEY_LAYER)[1]

    def layer_inputs(text: str) -> Tensor:
        return whitened(inputs_at(runner, layer, [tokenizer(text)["input_ids"]])[0], basis)

    def distance_of(first: Tensor, second: Tensor) -> float:
        if distance == EUC:
            return float((first - second).norm())
        return float(1 - torch.nn.functional.cosine_similarity(first, second, dim=0))

    def at_subject(text: str, subject: str) -> Tensor:
        return layer_inputs(text)[subject_position(tokenizer, text, subject)]

    keys = [
        [at_subject(template.format(request.prompt), str(request.subject)) for template in ("{}", "the old song . {}")]
        for request in requests
    ]
    paraphrases = [at_subject(request.rephrase_prompts[0], str(request.subject)) for request in requests]
    paraphrase_distances = [
        [min(distance_of(query, vector) for vector in key) for key in keys] for query in paraphrases
    ]
    locality_distances = [
        [min(distance_of(token, vector) for token in layer_inputs(text) for vector in key) for key in keys]
        for text in locality_prompts(requests)
    ]
    return torch.tensor(paraphrase_distances), torch.tensor(locality_distances)


@pytest.mark.parametrize("distance", [EUC, COS, WHITENED])
def test_the_key_layer_study_equals_distances_by_hand(hparams: GraceHyperParams, distance: str) -> None:
    model, tokenizer, requests = build_model("llama"), build_tokenizer(), records()
    requests[3] = EditRequest.from_dict(
        {
            "case_id": 3,
            "prompt": "Hamlet made from green",
            "target_new": "cheese",
            "subject": "Hamlet",
            "rephrase_prompt": "old Hamlet made",
            "locality_prompt": "Peru is old",
            "locality_ground_truth": "sea",
        },
        "x",
    )
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 8, generator=generator)).Q * 0.8
    texts = StudyTexts.of(requests, tokenizer, hparams)
    inputs = LayerInputs(Runner(model, tokenizer), {KEY_LAYER: find_module(model, KEY_LAYER)[1]})
    results = study_key_layers(inputs, [KEY_LAYER], texts, {KEY_LAYER: basis}, tokenizer, hparams, 0.4)
    result = next(candidate for candidate in results if candidate.distance == distance)
    paraphrase_distances, locality_distances = distances_by_hand(
        model, tokenizer, requests, basis if distance == WHITENED else None, distance
    )
    # The subject of record 1 is Peru. In a prompt that names the subject, a match is no false fire.
    locality_distances[locality_prompts(requests).index("Peru is old"), 1] = float("inf")
    assert len(locality_distances) == 6 and locality_prompts(requests).index("blue far away") == 4
    right = paraphrase_distances.argmin(dim=1) == torch.arange(len(requests))
    assert result.right == pytest.approx(float(right.float().mean()))
    assert [radius.rate for radius in result.common] == [0.005, 0.01, 0.02, 0.05, 0.4]
    for radius, allowed in zip(result.common, [0, 0, 0, 0, 2], strict=True):
        limit = float(locality_distances.amin(dim=1).sort().values[allowed])
        assert radius.eps == pytest.approx(limit, rel=1e-3) and radius.eps < limit
        assert radius.fires == pytest.approx(allowed / 6)
        within = right & (paraphrase_distances.amin(dim=1) <= radius.eps)
        assert radius.found == pytest.approx(float(within.float().mean()))
    assert 0 <= result.auto.found <= result.right and result.auto.rate is None
    own_distances = paraphrase_distances.diagonal()
    assert result.mentions == pytest.approx(float(own_distances.quantile(0.99)), rel=1e-3)


def locality_prompts(requests: list[EditRequest]) -> list[str]:
    return list(dict.fromkeys(probe.prompt for request in requests for probe in request.locality["neighborhood"]))


def test_the_key_of_another_record_about_the_subject_counts_as_right(hparams: GraceHyperParams) -> None:
    requests = records()
    requests.append(
        EditRequest.from_dict(
            {
                "case_id": 10,
                "prompt": "city of France but",
                "target_new": "sea",
                "subject": "France",
                "rephrase_prompt": "the capital of France is",
                "locality_prompt": "song",
                "locality_ground_truth": "sea",
            },
            "x",
        )
    )
    texts = StudyTexts.of(requests, build_tokenizer(), hparams)
    assert texts.same_subject[0].tolist() == [True, *[False] * 9, True]
    model, tokenizer = build_model("llama"), build_tokenizer()
    inputs = LayerInputs(Runner(model, tokenizer), {KEY_LAYER: find_module(model, KEY_LAYER)[1]})

    def share_right() -> float:
        whitenings = {KEY_LAYER: torch.zeros(32, 1)}
        return study_key_layers(inputs, [KEY_LAYER], texts, whitenings, tokenizer, hparams, 0.01)[1].right

    with_both_records, texts.same_subject = share_right(), torch.eye(11, dtype=torch.bool)
    # The paraphrase of the last record is the prompt of the first, so its nearest key is that of the first.
    assert with_both_records >= share_right() + 1 / 11 - 1e-6


def test_the_auc_counts_ties_as_half() -> None:
    near, far = torch.tensor([0.1, 0.3, 0.5]), torch.tensor([0.3, 0.6])
    assert auc(near, far) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)


@pytest.mark.parametrize("by_relation", [False, True])
def test_the_gate_study_equals_distances_by_hand(by_relation: bool) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    runner, layer = Runner(model, tokenizer), find_module(model, ANSWER_LAYER)[1]
    generator = torch.Generator().manual_seed(0)
    width = len(inputs_at(runner, layer, [[5]])[0][-1])
    metric = RelationMetric(torch.randn(width, generator=generator), torch.randn(width, 3, generator=generator))
    metrics = {ANSWER_LAYER: metric} if by_relation else {}
    (gate,) = study_gates(
        LayerInputs(runner, {ANSWER_LAYER: layer}, ends_only=True), [ANSWER_LAYER], requests, tokenizer, metrics
    )

    def last_input(text: str) -> Tensor:
        activation = inputs_at(runner, layer, [tokenizer(text)["input_ids"]])[0][-1]
        return (activation - metric.mean) @ metric.projection if by_relation else activation

    def cosine_distance(first: str, second: str) -> float:
        return float(1 - torch.nn.functional.cosine_similarity(last_input(first), last_input(second), dim=0))

    near = torch.tensor([cosine_distance(request.prompt, request.rephrase_prompts[0]) for request in requests])
    far = torch.tensor(
        [
            cosine_distance(request.prompt, probe.prompt)
            for request in requests
            for probe in request.relation_specificity
        ]
    )
    assert gate.auc == pytest.approx(auc(near, far))
    radii = [opening.radius for opening in gate.openings]
    assert radii == sorted(set(radii)) and gate.openings[-1].paraphrases == 1
    for opening in gate.openings:
        assert opening.paraphrases == pytest.approx(float((near <= opening.radius).float().mean()))
        assert opening.others == pytest.approx(float((far <= opening.radius).float().mean()))
    assert gate.passing(0.7).paraphrases >= 0.7


def test_trial_edits_are_scored_at_each_gate_and_rolled_back(hparams: GraceHyperParams) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    before = state_of(model)
    trial_hparams = choice.with_values(
        hparams,
        {
            "inner_params": [KEY_LAYER],
            "dist_fn": "cos",
            "eps": 0.2,
            "answer_layer": ANSWER_LAYER,
            "gate_eps": 0.5,
            "train_batch": 3,
        },
    )
    board = Scoreboard(Scorer(tokenizer), model, requests, [], generation_requests=[])
    progress: list[tuple[int, int]] = []
    trial = try_edits(
        model, tokenizer, requests, trial_hparams, [1.99, 0.01, 2.1], board, lambda *at: progress.append(at)
    )
    assert [point.gate for point in trial.points] == [0.01, 1.99, 2.1, None]
    assert (trial.layer, trial.n_edits) == (ANSWER_LAYER, 10)
    assert progress[:4] == [(3, 14), (6, 14), (9, 14), (10, 14)] and progress[-1] == (14, 14)
    narrowest, *_, widest, without_gate = trial.points
    assert (widest.generality, widest.relation_specificity) == (
        without_gate.generality,
        without_gate.relation_specificity,
    )
    assert narrowest.relation_specificity >= without_gate.relation_specificity
    assert narrowest.reliability > board.before(requests).values.get("reliability_before", 0.0)
    assert GraceEditor.all_of(model) == {}
    after = state_of(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_edits_of_a_failed_trial_are_rolled_back(hparams: GraceHyperParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    trial_hparams = choice.with_values(
        hparams, {"inner_params": [KEY_LAYER], "answer_layer": ANSWER_LAYER, "gate_eps": 0.5}
    )
    board = Scoreboard(Scorer(tokenizer), model, requests, [], generation_requests=[])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(board, "score", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        try_edits(model, tokenizer, requests, trial_hparams, [0.5], board)
    assert GraceEditor.all_of(model) == {}
