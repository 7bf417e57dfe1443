"""Causal traces of tiny models equal those of ROME's code, with the same noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from easyedit_lifelong.locate.corruption import GaussianNoise
from easyedit_lifelong.locate.known_facts import KnownFact, encode_known_fact
from easyedit_lifelong.locate.trace import FactTrace, Tracer
from tests.support.toy_method import make_pair

AUTHORS = load_file(Path(__file__).parents[1] / "golden" / "causal_tracing_authors.safetensors")
FACTS = [("The Eiffel Tower stands in the city of", "Eiffel Tower"), ("Alan Turing was born in", "Alan Turing")]
NOISE, WINDOWS = 0.9, {"gpt2": 10, "llama": 2}
NAMES = {"state": "state", "mlp": "mlp", "attention": "attn"}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def traced(request: pytest.FixtureRequest) -> tuple[str, list[FactTrace]]:
    """The family, and the traces of both facts. The answer is the model's most likely token."""
    model, tokenizer = make_pair(request.param)
    model = model.double()
    tracer = Tracer(model, tokenizer, GaussianNoise(NOISE), window=WINDOWS[request.param])
    traces = []
    for number, (prompt, subject) in enumerate(FACTS):
        encoded = encode_known_fact(tokenizer, KnownFact(number, prompt, subject, "a"))
        answer = AUTHORS[f"{request.param}.{number}.answer"].tolist()
        traces.append(tracer.trace(dataclasses.replace(encoded, answer=[answer])))
    return request.param, traces


def close(ours: Any, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(ours, dtype=torch.float64), theirs, rtol=0, atol=1e-9)


def test_high_and_low_scores_equal_the_authors(traced: tuple[str, list[FactTrace]]) -> None:
    family, traces = traced
    for number, trace in enumerate(traces):
        assert list(trace.subject) == AUTHORS[f"{family}.{number}.subject"].tolist()
        close(trace.high, AUTHORS[f"{family}.{number}.high"])
        close(trace.low, AUTHORS[f"{family}.{number}.low"])


@pytest.mark.parametrize("kind", ["state", "mlp", "attention"])
def test_every_score_equals_the_authors(traced: tuple[str, list[FactTrace]], kind: Any) -> None:
    family, traces = traced
    for number, trace in enumerate(traces):
        theirs = AUTHORS[f"{family}.{number}.{NAMES[kind]}"]
        assert theirs.std() > 1e-4
        close(trace.scores[kind], theirs)


@pytest.mark.parametrize("module", ["mlp", "attention"])
def test_severed_paths_equal_the_authors_with_one_noise(traced: tuple[str, list[FactTrace]], module: Any) -> None:
    """The published code draws other noise for the frozen outputs than for the run that they are put into."""
    family, traces = traced
    for number, trace in enumerate(traces):
        name = f"{family}.{number}.severed.{NAMES[module]}"
        close(trace.severed[module], AUTHORS[name])
        assert (AUTHORS[name] - AUTHORS[f"{name}.published"]).abs().max() > 1e-4
