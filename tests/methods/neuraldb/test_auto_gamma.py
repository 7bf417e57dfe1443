"""``gamma: auto``: the share of sentences that fire is at most the given one."""

from __future__ import annotations

import pytest
import torch

from easyedit_lifelong.methods.neuraldb.auto_gamma import auto_gamma
from easyedit_lifelong.methods.neuraldb.editor import NeuralDBEditor
from easyedit_lifelong.methods.shared.sample_sentences import Sentences
from easyedit_lifelong.models.capture import inputs_at
from easyedit_lifelong.models.runner import Runner
from tests.methods.neuraldb.edits_of_tiny_model import FRANCE, HAMLET, edit, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer

SUBJECTS = [
    ("France", "the capital of France is"),
    ("Hamlet", "who wrote Hamlet"),
    ("Peru", "language spoken in Peru is"),
    ("London", "the old river in London"),
]
TEXTS = [prompt for _, prompt in SUBJECTS] + [
    "king plays piano",
    "snow and mountain",
    "green cheese from the moon",
    "where born the winter bird",
    "Berlin is far away",
    "blue sea and summer song",
]
SENTENCES = Sentences(TEXTS, SUBJECTS)


def gamma_for(rate: float) -> float:
    model, hparams = build_model("llama"), hparams_for(gamma="auto", false_fire_rate=rate)
    block = model.get_submodule("model.layers.1")
    runner = Runner(model, build_tokenizer())
    return auto_gamma(runner, block, block.mlp.down_proj, [["{}"]], hparams, SENTENCES)


def firing_cosines() -> list[float]:
    """Return the largest cosine of each sentence with the key of a subject that it does not name."""
    model, tokenizer = build_model("llama"), build_tokenizer()
    runner, projection = Runner(model, tokenizer), model.get_submodule("model.layers.1.mlp.down_proj")
    inputs = dict(
        zip(TEXTS, inputs_at(runner, projection, [tokenizer(text)["input_ids"] for text in TEXTS]), strict=True)
    )
    keys = {subject: inputs[prompt][prompt.split().index(subject)].double() for subject, prompt in SUBJECTS}
    return [
        max(
            float(torch.cosine_similarity(tokens.double(), key.unsqueeze(0)).max())
            for subject, key in keys.items()
            if subject not in text
        )
        for text, tokens in inputs.items()
    ]


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5])
def test_at_most_the_given_share_of_sentences_fires(rate: float) -> None:
    gamma, cosines = gamma_for(rate), firing_cosines()
    assert sum(cosine > gamma + 1e-6 for cosine in cosines) <= rate * len(cosines)
    # With a smaller gamma, more sentences than that would fire.
    assert sum(cosine > gamma - 1e-6 for cosine in cosines) > rate * len(cosines)


def test_edits_are_made_with_the_gamma_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("easyedit_lifelong.methods.neuraldb.auto_gamma.sample_sentences", lambda: SENTENCES)
    model = build_model("llama")
    edit(model, FRANCE, gamma="auto", false_fire_rate=0.25)
    # The gamma of later edits is not measured on the edited model.
    edit(model, HAMLET, gamma="auto", false_fire_rate=0.25)
    assert [edit.data["gamma"] for edit in NeuralDBEditor.all_on(model)[0].edits] == [gamma_for(0.25)] * 2
