"""Where subjects are found, what gates tell apart, edits on trial, and what is picked: against plain arithmetic."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.evaluation.scoreboard import Scoreboard
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.calibration import choice as choosing
from easyedit_lifelong.methods.grace.calibration.answer_layer_study import (
    Gate,
    GateScores,
    Opening,
    Trial,
    auc,
    study_gates,
    try_edits,
)
from easyedit_lifelong.methods.grace.calibration.key_layer_study import (
    COS,
    EUC,
    WHITENED,
    KeyLayerResult,
    RadiusResult,
    StudyTexts,
    study_key_layers,
)
from easyedit_lifelong.methods.grace.calibration.layer_inputs import LayerInputs
from easyedit_lifelong.methods.grace.calibration.study import Settings, Steps, calibrate
from easyedit_lifelong.methods.grace.calibration.usable_records import add_relation_probes
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.subject.whitening import whitened
from easyedit_lifelong.methods.shared.subject_positions import subject_position
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.calibration_records import records, values
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FINDS, ANSWERS = "model.layers.1.mlp.gate_proj", "model.layers.3.mlp"


@pytest.fixture
def hparams(tmp_path: Path) -> GraceHyperParams:
    return GraceHyperParams.from_values(values(tmp_path, "tiny"), "test")


def by_hand(model: Any, tokenizer: Any, requests: list[EditRequest], basis: Tensor | None, distance: str) -> Any:
    """Distances of every paraphrase, and of every locality prompt's nearest token, to every key; one at a time."""
    runner, layer = Runner(model, tokenizer), find_module(model, FINDS)[1]

    def seen(text: str) -> Tensor:
        return whitened(inputs_at(runner, layer, [tokenizer(text)["input_ids"]])[0], basis)

    def apart(one: Tensor, other: Tensor) -> float:
        if distance == EUC:
            return float((one - other).norm())
        return float(1 - torch.nn.functional.cosine_similarity(one, other, dim=0))

    def at_subject(text: str, subject: str) -> Tensor:
        return seen(text)[subject_position(tokenizer, text, subject)]

    keys = [
        [at_subject(template.format(r.prompt), str(r.subject)) for template in ("{}", "the old song . {}")]
        for r in requests
    ]
    paraphrases = [at_subject(r.rephrase_prompts[0], str(r.subject)) for r in requests]
    locality = list(dict.fromkeys(p.prompt for r in requests for p in r.locality["neighborhood"]))
    to_keys = [[min(apart(query, view) for view in key) for key in keys] for query in paraphrases]
    fires = [[min(apart(token, view) for token in seen(text) for view in key) for key in keys] for text in locality]
    return torch.tensor(to_keys), torch.tensor(fires)


@pytest.mark.parametrize("distance", [EUC, COS, WHITENED])
def test_finding_by_hand(hparams: GraceHyperParams, distance: str) -> None:
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
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 8, generator=draw)).Q * 0.8
    texts = StudyTexts.of(requests, tokenizer, hparams)
    inputs = LayerInputs(Runner(model, tokenizer), {FINDS: find_module(model, FINDS)[1]})
    found = study_key_layers(inputs, [FINDS], texts, {FINDS: basis}, tokenizer, hparams, 0.4)
    one = next(finding for finding in found if finding.distance == distance)
    to_keys, fires = by_hand(model, tokenizer, requests, basis if distance == WHITENED else None, distance)
    names_peru = 4  # the fifth of the locality prompts, which so can't fire falsely for Peru's key
    fires[[text == "Peru is old" for text in _locality(requests)].index(True), 1] = float("inf")
    assert len(fires) == 6 and names_peru == _locality(requests).index("blue far away")
    right = to_keys.argmin(dim=1) == torch.arange(len(requests))
    assert one.right == pytest.approx(float(right.float().mean()))
    assert [radius.rate for radius in one.common] == [0.005, 0.01, 0.02, 0.05, 0.4]
    for radius, allowed in zip(one.common, [0, 0, 0, 0, 2], strict=True):
        limit = float(fires.amin(dim=1).sort().values[allowed])
        assert radius.eps == pytest.approx(limit, rel=1e-3) and radius.eps < limit
        assert radius.fires == pytest.approx(allowed / 6)
        within = right & (to_keys.amin(dim=1) <= radius.eps)
        assert radius.found == pytest.approx(float(within.float().mean()))
    assert 0 <= one.auto.found <= one.right and one.auto.rate is None


def _locality(requests: list[EditRequest]) -> list[str]:
    return list(dict.fromkeys(probe.prompt for r in requests for probe in r.locality["neighborhood"]))


def test_another_record_of_the_same_subject_is_right(hparams: GraceHyperParams) -> None:
    twice = records()
    twice.append(
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
    texts = StudyTexts.of(twice, build_tokenizer(), hparams)
    assert texts.same_subject[0].tolist() == [True, *[False] * 9, True]
    model, tokenizer = build_model("llama"), build_tokenizer()
    inputs = LayerInputs(Runner(model, tokenizer), {FINDS: find_module(model, FINDS)[1]})

    def right() -> float:
        return study_key_layers(inputs, [FINDS], texts, {FINDS: torch.zeros(32, 1)}, tokenizer, hparams, 0.01)[1].right

    found, texts.same_subject = right(), torch.eye(11, dtype=torch.bool)
    # The last one's paraphrase is the first one's prompt, whose key it is.
    assert found >= right() + 1 / 11 - 1e-6


def test_auc_by_hand() -> None:
    near, far = torch.tensor([0.1, 0.3, 0.5]), torch.tensor([0.3, 0.6])
    assert auc(near, far) == pytest.approx((1 + 1 + 0.5 + 1 + 0 + 1) / 6)


def test_gates_by_hand() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    runner, layer = Runner(model, tokenizer), find_module(model, ANSWERS)[1]
    (gate,) = study_gates(LayerInputs(runner, {ANSWERS: layer}, ends_only=True), [ANSWERS], requests, tokenizer)

    def end(text: str) -> Tensor:
        return inputs_at(runner, layer, [tokenizer(text)["input_ids"]])[0][-1]

    def apart(one: str, other: str) -> float:
        return float(1 - torch.nn.functional.cosine_similarity(end(one), end(other), dim=0))

    near = torch.tensor([apart(r.prompt, r.rephrase_prompts[0]) for r in requests])
    far = torch.tensor([apart(r.prompt, probe.prompt) for r in requests for probe in r.relation_specificity])
    assert gate.auc == pytest.approx(auc(near, far))
    radii = [opening.radius for opening in gate.openings]
    assert radii == sorted(set(radii)) and gate.openings[-1].paraphrases == 1
    for opening in gate.openings:
        assert opening.paraphrases == pytest.approx(float((near <= opening.radius).float().mean()))
        assert opening.others == pytest.approx(float((far <= opening.radius).float().mean()))
    assert gate.passing(0.7).paraphrases >= 0.7


def test_edits_on_trial_leave_nothing_behind(hparams: GraceHyperParams) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    before = state_of(model)
    tried = choosing.with_values(
        hparams,
        {
            "inner_params": [FINDS],
            "dist_fn": "cos",
            "eps": 0.2,
            "answer_layer": ANSWERS,
            "gate_eps": 0.5,
            "train_batch": 3,
        },
    )
    board = Scoreboard(Scorer(tokenizer), model, requests, [], generation_requests=[])
    heard: list[tuple[int, int]] = []
    trial = try_edits(model, tokenizer, requests, tried, [1.99, 0.01, 2.1], board, lambda *at: heard.append(at))
    assert [point.gate for point in trial.points] == [0.01, 1.99, 2.1, None]
    assert (trial.layer, trial.n_edits) == (ANSWERS, 10)
    assert heard[:4] == [(3, 14), (6, 14), (9, 14), (10, 14)] and heard[-1] == (14, 14)
    narrow, *_, widest, none = trial.points
    assert (widest.generality, widest.relation_specificity) == (none.generality, none.relation_specificity)
    assert narrow.relation_specificity >= none.relation_specificity
    assert narrow.reliability > board.before(requests).values.get("reliability_before", 0.0)
    assert GraceEditor.all_of(model) == {}
    after = state_of(model)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_failed_trial_leaves_nothing_behind(hparams: GraceHyperParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    requests, _ = add_relation_probes(records())
    tried = choosing.with_values(hparams, {"inner_params": [FINDS], "answer_layer": ANSWERS, "gate_eps": 0.5})
    board = Scoreboard(Scorer(tokenizer), model, requests, [], generation_requests=[])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no more memory")

    monkeypatch.setattr(board, "score", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        try_edits(model, tokenizer, requests, tried, [0.5], board)
    assert GraceEditor.all_of(model) == {}


# ------------------------------------------------------------------ what is picked


def finding(layer: str, found: list[float], auto: tuple[float, float] = (0.9, 0.0)) -> KeyLayerResult:
    rates = (0.005, 0.01, 0.02, 0.05)
    common = tuple(RadiusResult(rate, 0.123456, share, rate) for rate, share in zip(rates, found, strict=True))
    return KeyLayerResult(layer, WHITENED, 1.0, common, RadiusResult(None, 0.2, *auto))


def test_the_layer_that_finds_most() -> None:
    several = [
        finding("a", [0.5, 0.9, 0.9, 0.9], (0.8, 0.0)),
        finding("b", [0.5, 0.9, 0.9, 0.9], (0.9, 0.0)),
        finding("c", [0.9, 0.8, 1, 1], (1.0, 0.0)),
    ]
    assert choosing.best_key_layer(several, 0.01).layer == "b"
    assert choosing.best_key_layer(several, 0.02).layer == "c"


@pytest.mark.parametrize(
    ("auto", "prompts", "eps"),
    [
        ((0.86, 0.0), 100, "auto"),
        ((0.85, 0.0), 100, 0.1234),
        ((0.9, 0.02), 100, "auto"),
        ((0.9, 0.03), 100, 0.1234),
        ((0.9, 1 / 20), 20, "auto"),
        ((0.9, 2 / 20), 20, 0.1234),
    ],
)
def test_auto_unless_one_radius_does_better(auto: tuple[float, float], prompts: int, eps: float | str) -> None:
    assert choosing.choose_eps(finding("a", [0.5, 0.9, 0.9, 0.9], auto), 0.01, prompts) == eps


def trial(layer: str, *scores: tuple[float | None, float, float]) -> Trial:
    return Trial(
        layer, 9, 9, tuple(GateScores(gate, 1.0, general, 1.0, specific) for gate, general, specific in scores)
    )


def test_the_narrowest_gate_that_leaves_enough() -> None:
    one = trial("a", (0.3, 0.5, 0.9), (0.4, 0.72, 0.6), (0.5, 0.8, 0.2), (None, 0.8, 0.1))
    assert choosing.narrowest_gate(one, 0.9).gate == 0.4
    assert choosing.narrowest_gate(one, 1.0).gate == 0.5
    assert choosing.narrowest_gate(trial("b", (0.3, 0.5, 0.9), (None, 0.8, 0.1)), 0.9).gate is None
    better = trial("c", (0.4, 0.75, 0.7), (None, 0.8, 0.1))
    assert choosing.best_trial([one, better], 0.9) == (better, better.points[0])


def test_the_best_trial_has_the_best_harmonic_mean() -> None:
    even = trial("even", (None, 0.5, 0.5))  # 0.667, as 0.75 is the arithmetic mean
    for uneven in (trial("uneven", (None, 0.95, 0.33)), trial("none", (None, 1.0, 0.0))):
        assert choosing.best_trial([uneven, even], 0.9)[0] is even
    better = trial("better", (None, 0.95, 0.35))
    assert choosing.best_trial([even, better], 0.9)[0] is better


def test_the_best_gates() -> None:
    gates = [Gate(layer, score, (Opening(0.5, 1.0, 0.5),)) for layer, score in (("a", 0.6), ("b", 0.8), ("c", 0.7))]
    assert [gate.layer for gate in choosing.best_gates(gates, 2)] == ["b", "c"]


def test_steps_are_not_done_again(hparams: GraceHyperParams) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    settings = Settings(None, None, 0.2, edits=4)
    kept: list[dict[str, Any]] = []

    def keep(steps: Steps) -> None:
        kept.append(json.loads(json.dumps(dataclasses.asdict(steps))))

    whole = calibrate(model, tokenizer, records(), hparams, settings, save=keep)
    assert [len(steps["trials"]) for steps in kept] == [0, 0, 1, 2]
    assert kept[0]["gates"] is None
    for steps in kept:
        again: list[Steps] = []
        resumed = calibrate(
            model, tokenizer, records(), hparams, settings, steps=Steps.from_dict(steps), save=again.append
        )
        assert len(again) == 3 - kept.index(steps)
        assert resumed == whole
    assert whole.hparams.false_fire_rate == 0.2
    assert whole.counts == {"given": 10, "records": 10, "paraphrases": 10, "locality": 5, "made": 10}
