"""A calibration that is resumed repeats no step and ends with the same result."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from easyedit_lifelong import GraceHyperParams
from easyedit_lifelong.methods.grace.calibration.choice import choose_named_eps
from easyedit_lifelong.methods.grace.calibration.study import Settings, Steps, calibrate
from tests.support.calibration_records import records
from tests.support.tiny_models import build_model, build_tokenizer


def test_resuming_after_any_step_repeats_no_step_and_gives_the_same_result(hparams: GraceHyperParams) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    settings = Settings(None, None, 0.2, edits=4)
    saved: list[dict[str, Any]] = []

    def save_copy(steps: Steps) -> None:
        saved.append(json.loads(json.dumps(dataclasses.asdict(steps))))

    uninterrupted = calibrate(model, tokenizer, records(), hparams, settings, save=save_copy)
    assert [len(steps["trials"]) for steps in saved] == [0, 0, 1, 2]
    assert saved[0]["gates"] is None
    for steps in saved:
        saved_after_resume: list[Steps] = []
        resumed = calibrate(
            model, tokenizer, records(), hparams, settings, steps=Steps.from_dict(steps), save=saved_after_resume.append
        )
        assert len(saved_after_resume) == 3 - saved.index(steps)
        assert resumed == uninterrupted
    assert uninterrupted.hparams.false_fire_rate == 0.2
    assert uninterrupted.counts == {"given": 10, "records": 10, "paraphrases": 10, "locality": 5, "made": 10}


def test_named_eps_is_calibrated_where_words_are_compared(hparams: GraceHyperParams) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    settings = Settings(None, None, 0.2, edits=4, tries=1)
    given = dataclasses.replace(hparams, named_eps=0.75, answer_layer="model.layers.3.mlp")
    by_words = calibrate(model, tokenizer, records(), given, settings)
    assert by_words.hparams.named_eps == choose_named_eps(by_words.key_layer) != 0.75
    without = calibrate(model, tokenizer, records(), hparams, settings)
    assert without.hparams.named_eps is None and "named_eps" not in without.chosen
