"""The loss of a training edit is that of the definition, computed with full passes of an edited model."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import EditError, MendHyperParams
from easyedit_lifelong.data.readers import read_counterfact, read_zsre
from easyedit_lifelong.data.request import EditRequest, as_requests
from easyedit_lifelong.data.samples import COUNTERFACT, ZSRE
from easyedit_lifelong.methods.hypernetworks.token_gradients import token_gradients
from easyedit_lifelong.methods.hypernetworks.training import HypernetworkTraining
from easyedit_lifelong.methods.mend.network import MendNetwork
from easyedit_lifelong.methods.training.example_passes import ExamplePasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training_records import training_records

PATHS = {
    "llama": ["model.layers.2.mlp.up_proj", "model.layers.3.mlp.down_proj"],
    "gpt2": ["transformer.h.2.mlp.c_fc", "transformer.h.3.mlp.c_proj"],
}
RECORDS = [
    {**record, "locality_ground_truth": f"{record['locality_ground_truth']} old king"} for record in training_records(4)
]


def training_for(family: str, **options: Any) -> tuple[Any, HypernetworkTraining]:
    model = build_model(family, torch.float64)
    hparams = MendHyperParams(model_name="tiny", inner_params=PATHS[family], rank=2, edit_lr=1e-2, **options)
    return model, HypernetworkTraining(model, build_tokenizer(), hparams, MendNetwork)


@pytest.mark.parametrize("kl_tokens", ["all", "answer"])
@pytest.mark.parametrize("family", sorted(PATHS))
def test_the_loss_is_that_of_the_definition(family: str, kl_tokens: str) -> None:
    model, training = training_for(family, kl_tokens=kl_tokens, cedit=0.3, cloc=2.0)
    records = [training.encode(request).choose(random.Random(0)) for request in as_requests(RECORDS[:2])]
    with editing(model), frozen(model), torch.no_grad():
        training.loss(records, observe=True)  # gives the network its statistics
        loss = training.loss(records, observe=False)
        weights = training.edited_weights([record.edit for record in records], observe=False)

        def log_probs(example: Example) -> torch.Tensor:
            return model(torch.tensor([example.tokens])).logits[0].log_softmax(dim=1)

        before = [log_probs(record.locality) for record in records]
        for path, weight in weights.items():
            model.get_submodule(path).weight.copy_(weight)
        nll, divergences = [], []
        for record, old in zip(records, before, strict=True):
            target = record.paraphrase.target
            predictions = log_probs(record.paraphrase)[len(record.paraphrase.prompt) - 1 : -1]
            nll.append(-predictions[range(len(target)), list(target)].mean())
            divergence = (old.exp() * (old - log_probs(record.locality))).sum(dim=1)
            divergences.append(divergence if kl_tokens == "all" else divergence[len(record.locality.prompt) - 1 : -1])
    edit, locality = torch.stack(nll).mean(), torch.cat(divergences).mean()
    assert float(locality) > 1e-3
    torch.testing.assert_close(loss.edit, edit, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(loss.locality, locality, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(loss.total, 0.3 * edit + 2.0 * locality, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", sorted(PATHS))
def test_the_products_of_inputs_and_gradients_are_the_gradient_of_the_weight(family: str) -> None:
    model = build_model(family, torch.float64)
    modules = {path: model.get_submodule(path) for path in PATHS[family]}
    passes = ExamplePasses(Runner(model, build_tokenizer()), modules)
    examples = [Example("long", (5, 9, 11, 20), (30, 8)), Example("short", (12,), (14,))]
    with editing(model), frozen(model):
        gradients, _ = token_gradients(passes, modules, examples)
    for path, module in modules.items():
        module.weight.requires_grad_(True)
        losses = []
        for example in examples:
            logits = model(torch.tensor([example.tokens])).logits[0, len(example.prompt) - 1 : -1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(example.target)))
        (expected,) = torch.autograd.grad(torch.stack(losses).sum(), module.weight)
        products = gradients[path].gradients.t() @ gradients[path].inputs
        torch.testing.assert_close(products.t() if family == "gpt2" else products, expected, rtol=1e-5, atol=1e-8)


def test_a_request_has_the_same_gradient_alone_and_in_a_batch() -> None:
    model = build_model("llama", torch.float64)
    modules = {path: model.get_submodule(path) for path in PATHS["llama"]}
    passes = ExamplePasses(Runner(model, build_tokenizer()), modules)
    examples = [Example("long", (5, 9, 11, 20), (30, 8)), Example("short", (12,), (14,))]
    with editing(model), frozen(model):
        together, _ = token_gradients(passes, modules, examples)
        alone = [token_gradients(passes, modules, [example])[0] for example in examples]
    for path in modules:
        for name in ("inputs", "gradients"):
            expected = torch.cat([getattr(part[path], name) for part in alone])
            torch.testing.assert_close(getattr(together[path], name), expected, rtol=1e-5, atol=1e-8)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = build_model("llama")
    modules = {path: model.get_submodule(path) for path in PATHS["llama"]}
    with torch.no_grad():
        model.lm_head.weight[7] = float("inf")
    passes = ExamplePasses(Runner(model, build_tokenizer()), modules)
    with editing(model), frozen(model), pytest.raises(EditError, match="an edit: the loss became nan"):
        token_gradients(passes, modules, [Example("an edit", (5, 9), (7,))])


@pytest.mark.parametrize(("path", "read"), [(ZSRE, read_zsre), (COUNTERFACT, read_counterfact)])
def test_the_records_of_both_formats_can_be_trained_on(path: Path, read: Callable[[Path], list[EditRequest]]) -> None:
    _, training = training_for("llama")
    requests = read(path)
    records = [training.encode(request) for request in requests]
    assert [len(record.paraphrases) for record in records] == [len(request.rephrase_prompts) for request in requests]
    assert all(record.locality for record in records)


def test_a_record_gives_one_of_its_paraphrases_and_locality_prompts() -> None:
    _, training = training_for("llama")
    locality = {"neighborhood": {"prompt": ["king of", "sea of"], "ground_truth": ["song", "bird"]}}
    request = {**RECORDS[0], "rephrase_prompt": ["and blue", "and sea"], "locality": locality}
    record = training.encode(as_requests([request])[0])
    assert (len(record.paraphrases), len(record.locality)) == (2, 2)
    chosen = {record.choose(random.Random(seed)) for seed in range(20)}
    assert {choice.paraphrase for choice in chosen} == set(record.paraphrases)
    assert {choice.locality for choice in chosen} == set(record.locality)
    assert {choice.edit for choice in chosen} == {record.edit}
    without = {name: value for name, value in RECORDS[0].items() if name != "rephrase_prompt"}
    record = training.encode(as_requests([without])[0])
    assert record.paraphrases == (record.edit,)
