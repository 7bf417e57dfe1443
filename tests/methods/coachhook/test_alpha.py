"""Where α falls to: in the unedited model, as the authors' code has it, or in the edited one."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import FAMILIES, build_model

from easyedit_lifelong.methods.coachhook.scores import z_scores

from .support import FACTS, editor_on, hparams_for, requests_for

BATCH = [prompt for prompt, _, _ in FACTS]


def highest(model: Any, tokenizer: Any) -> dict[str, list[float]]:
    """Each layer's highest z-score in every prompt, in the model as it is."""
    return {path: [float(z.max()) for z in scores] for path, scores in z_scores(model, tokenizer, BATCH).items()}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_the_edited_model_alpha_is_what_the_batch_will_be_decided_by(family: str, tokenizer: Any) -> None:
    model = build_model(family)
    editor = editor_on(model, tokenizer, hparams_for(family, alpha_model="edited", batch_size=4))
    editor.edit(requests_for())
    for path, scores in highest(model, tokenizer).items():
        expected = min(2.2, *scores)
        assert editor.alphas[path] == pytest.approx(expected, abs=1e-3)
        assert all(score >= editor.alphas[path] - editor.hooks[path].slack for score in scores)


def test_with_one_layer_both_are_the_same(tokenizer: Any) -> None:
    alphas = []
    for choice in ("unedited", "edited"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", layers=[1], alpha_model=choice, batch_size=4))
        editor.edit(requests_for())
        alphas.append(list(editor.alphas.values()))
    assert alphas[0] == pytest.approx(alphas[1], abs=1e-4)


def test_with_several_they_differ(tokenizer: Any) -> None:
    alphas = []
    for choice in ("unedited", "edited"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", alpha_model=choice, batch_size=4))
        editor.edit(requests_for())
        alphas.append(list(editor.alphas.values()))
    assert alphas[0][0] == pytest.approx(alphas[1][0], abs=1e-4), "nothing acts below the first layer"
    assert alphas[0][2] != pytest.approx(alphas[1][2], abs=1e-3)


def test_alpha_never_rises(tokenizer: Any) -> None:
    model = build_model("qwen2")
    editor = editor_on(model, tokenizer, hparams_for("qwen2", alpha_model="edited", batch_size=1))
    before = dict(editor.alphas)
    for request in requests_for():
        editor.edit([request])
        assert all(editor.alphas[path] <= before[path] for path in before)
        before = dict(editor.alphas)
    assert min(before.values()) < 2.2
