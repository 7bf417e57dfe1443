"""Losses, parameters and answers of the first edits are those of the authors' code.

``golden/trained_adaptors_authors.safetensors`` holds numbers from runs of GRACE's baselines (Thartvigsen/GRACE,
``grace/editors/defer.py`` and ``memory.py``) in float64 on the tiny models of ``make_pair``: two edits of five steps
each, given the token ids and labels of :func:`encode_pair`, and then the logits of two prompts. Its losses are in
float32. The memory has seven slots.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong.methods.trained_adaptors.adaptor import DeferAdaptor, MemoryAdaptor, TrainedAdaptor
from easyedit_lifelong.methods.trained_adaptors.editor import AdaptorPasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.training.train import Schedule, train
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.runner import Runner
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "trained_adaptors_authors.safetensors")
PATHS = {"gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj"}
FACTS = [("The capital of France is", "Rome"), ("Marie Curie was born in", "London")]
PROMPTS = [FACTS[0][0], "I say that you and they are here"]

each_kind = pytest.mark.parametrize("kind", sorted(PATHS))
each_method = pytest.mark.parametrize("method", ["defer", "memory"])


def adaptor_on(model: Any, kind: str, method: str) -> TrainedAdaptor:
    layer = model.get_submodule(PATHS[kind])
    return DeferAdaptor(model, layer, threshold=0.5) if method == "defer" else MemoryAdaptor(model, layer, slots=7)


def assert_same(actual: Tensor, name: str) -> None:
    torch.testing.assert_close(actual.detach(), GOLDEN[name], rtol=1e-5, atol=1e-5)


@each_kind
@each_method
def test_training_and_answers_equal_the_authors(method: str, kind: str) -> None:
    model, tokenizer = make_pair(kind)
    model = model.double()
    adaptor = adaptor_on(model, kind, method)
    start = GOLDEN[f"{kind}.{method}.start"]
    assert start.shape == adaptor.shape
    theta = start.clone().requires_grad_()
    passes = AdaptorPasses(Runner(model, tokenizer), PATHS[kind], adaptor)
    with editing(model), frozen(model):
        for number, fact in enumerate(FACTS):
            pair = encode_pair(tokenizer, *fact)
            example = Example("a test", tuple(pair.prompt), tuple(pair.target))
            losses = train(passes, {PATHS[kind]: theta}, [example], Schedule(5, 1e-1))
            assert_same(torch.tensor(losses, dtype=torch.float64), f"{kind}.{method}.losses{number}")
            assert_same(theta, f"{kind}.{method}.theta{number}")
    assert float((theta.detach() - start).abs().max()) > 0.5
    unedited = [model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0] for prompt in PROMPTS]
    adaptor.set_theta(theta.detach())
    with torch.no_grad():
        for number, prompt in enumerate(PROMPTS):
            logits = model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0]
            assert_same(logits, f"{kind}.{method}.used{number}")
            assert not torch.allclose(logits, unedited[number], atol=0.1)


@each_kind
def test_initial_parameters_have_the_distributions_of_the_authors(kind: str) -> None:
    model, _ = make_pair(kind)
    width = model.get_submodule(PATHS[kind]).weight.numel() // 32
    for method in ("defer", "memory"):
        adaptor = adaptor_on(model, kind, method)
        theta = torch.cat([adaptor.initial(torch.Generator().manual_seed(seed)) for seed in range(20)])
        theirs = GOLDEN[f"{kind}.{method}.start"]
        parts = [(theta[:, : width + 1], theirs[:, : width + 1], -(width**-0.5), width**-0.5)]
        if method == "memory":
            parts.append((theta[:, width + 1 :], theirs[:, width + 1 :], 0.0, 1.0))
        for ours, authors, low, high in parts:
            for part in (ours, authors):
                assert low <= float(part.min()) < float(part.max()) <= high
            spread = (high - low) / 12**0.5  # the standard deviation of a uniform distribution
            assert float(ours.mean()) == pytest.approx((low + high) / 2, abs=0.1 * spread)
            assert float(ours.std()) == pytest.approx(spread, rel=0.05)
        adaptor.detach()
