"""EK-FAC through kronfluence: equal to its definition and, without curvature, to products of gradients."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError, PluginError
from easyedit_lifelong.locate.attributed_rows import encode_answer, encode_texts
from easyedit_lifelong.locate.attribution import attribute
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.modules import find_module
from easyedit_lifelong.models.runner import Runner
from tests.support.coachhook_edits import attributes_and_hooks_of
from tests.support.tiny_models import build_model, build_tokenizer

TEXTS = ["the old king wrote Hamlet", "the moon", "Rome is the capital of Peru and not Paris", "who plays piano"]
PROMPT, ANSWER = "the capital of France is", "Rome"
LAYERS = {
    "gpt2": ["transformer.h.1.attn.c_attn", "transformer.h.2.mlp.c_proj"],
    "llama": ["model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj"],
}


def influence(model: Any, tokenizer: Any, names: list[str], **options: Any) -> list[float]:
    """Return the influence of the texts on the answer."""
    module = pytest.importorskip("easyedit_lifelong.locate.influence", exc_type=ImportError)
    runner = Runner(model, tokenizer)
    modules = dict(find_module(model, name) for name in names)
    rows, query = encode_texts(runner, TEXTS), encode_answer(tokenizer, PROMPT, ANSWER)
    with editing(model), frozen(model):
        scores: list[float] = module.influence_scores(runner, modules, rows, query, **options)
    return scores


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_curvature_scores_are_products_of_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names, tokenizer = LAYERS[family], build_tokenizer()
    model = build_model(family, torch.float64)
    if family == "gpt2":
        for name in names:  # products of gradients are those of the weights alone
            module = model.get_submodule(name)
            monkeypatch.setattr(type(module), "forward", lambda layer, inputs: inputs @ layer.weight)
            module.bias = None
    expected = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, layers=names, normalise=False)
    scores = influence(model, tokenizer, names, normalise=False, strategy="identity")
    assert scores == pytest.approx(expected, rel=1e-9)


def gradients(model: Any, names: list[str], ids: list[int], labels: torch.Tensor, scale: float) -> dict[str, Any]:
    """Return each layer's inputs, the gradients of its outputs and of its weight, for scale times a row's losses."""
    inputs, outputs = {}, {}
    handles = []
    for name in names:

        def hook(_: Any, args: Any, output: Any, name: str = name) -> None:
            inputs[name], outputs[name] = args[0][0].detach(), output
            output.retain_grad()

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    logits = model(torch.tensor([ids])).logits[0, : len(labels)]
    losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    (scale * losses).backward()
    for handle in handles:
        handle.remove()
    deltas = {name: outputs[name].grad[0] for name in names}
    model.zero_grad()
    return {name: (inputs[name], deltas[name], deltas[name].T @ inputs[name]) for name in names}


def test_scores_equal_the_definition_of_ekfac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that H is estimated with are the most likely ones here, in place of samples."""
    module = pytest.importorskip("easyedit_lifelong.locate.influence", exc_type=ImportError)
    monkeypatch.setattr(module, "sampled_labels", lambda logits, generator: logits.argmax(dim=-1))
    model, tokenizer, names, damping = build_model("llama", torch.float64), build_tokenizer(), LAYERS["llama"], 1e-4
    plain = influence(model, tokenizer, names, normalise=False, damping=damping)
    normalised = influence(model, tokenizer, names, normalise=True, damping=damping)

    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    with torch.no_grad():
        likely = [model(torch.tensor([row])).logits[0, :-1].argmax(dim=-1) for row in rows]
    fisher = [
        gradients(model, names, row, labels, len(labels) ** -0.5) for row, labels in zip(rows, likely, strict=True)
    ]
    of_texts = [gradients(model, names, row, torch.tensor(row[1:]), 1 / (len(row) - 1)) for row in rows]
    prompt, answer = tokenizer(PROMPT)["input_ids"], tokenizer(ANSWER)["input_ids"]
    labels = torch.tensor([-100] * (len(prompt) - 1) + answer)
    of_query = gradients(model, names, prompt + answer, labels, 1 / len(answer))

    expected, own, query_own = torch.zeros(4).double(), torch.zeros(4).double(), 0.0
    for name in names:
        moments = sum(inputs.T @ inputs for inputs, _, _ in (row[name] for row in fisher))
        basis_in = torch.linalg.eigh(moments).eigenvectors
        basis_out = torch.linalg.eigh(
            sum(delta.T @ delta for _, delta, _ in (row[name] for row in fisher))
        ).eigenvectors
        rotated = [basis_out.T @ row[name][2] @ basis_in for row in fisher]
        curvature = sum(gradient**2 for gradient in rotated) / len(rotated) + damping
        query = basis_out.T @ of_query[name][2] @ basis_in
        query_own += float((query**2 / curvature).sum())
        for index, row in enumerate(of_texts):
            gradient = basis_out.T @ row[name][2] @ basis_in
            expected[index] += (gradient * query / curvature).sum()
            own[index] += (gradient**2 / curvature).sum()
    assert plain == pytest.approx(expected.tolist(), rel=1e-6)
    assert normalised == pytest.approx((expected / (own * query_own).sqrt()).tolist(), rel=1e-6)


def test_the_model_and_the_random_state_are_as_before() -> None:
    pytest.importorskip("kronfluence")
    model, tokenizer = build_model("llama", torch.float64), build_tokenizer()
    before, random_state = attributes_and_hooks_of(model), torch.get_rng_state()
    modules, calls = list(model.modules()), []
    options = {"method": "ekfac", "layers": LAYERS["llama"]}
    scores = attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, **options, progress=lambda *count: calls.append(count))
    assert attribute(model, tokenizer, TEXTS, PROMPT, ANSWER, **options) == scores
    assert list(model.modules()) == modules
    assert attributes_and_hooks_of(model) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(-1 - 1e-9 <= score <= 1 + 1e-9 for score in scores)
    assert calls[-1] == (16, 16)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "easyedit_lifelong.locate.influence", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "kronfluence"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kronfluence", None)
    with pytest.raises(PluginError, match=r"Run: pip install 'easyedit-lifelong\[attribution\]'"):
        attribute(build_model("llama"), build_tokenizer(), TEXTS, PROMPT, ANSWER, method="ekfac")
    with pytest.raises(DataError, match="'lissa' isn't known"):
        attribute(build_model("llama"), build_tokenizer(), TEXTS, PROMPT, ANSWER, method="lissa")  # type: ignore
