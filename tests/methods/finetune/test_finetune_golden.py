"""Losses and weights of the first steps are those of the authors' code.

``golden/finetune_authors.safetensors`` holds numbers from runs in float64 on the tiny models of ``make_pair``:

- FT, FT+EWC, FT+Retrain: GRACE (Thartvigsen/GRACE, ``grace/editors``), five steps of each edit, given the token ids and
  labels of :func:`encode_pair`. Its losses are in float32. Two of its faults are repaired, without which it does not
  run: EWC loops over the letters of the name of the weight, and Retrain requires an argument that it does not use.
- FT-L: ROME (kmeng01/rome, ``baselines/ft``), five epochs over two requests whose targets are one token.
- LocFT-BF: ICT-STAR/LocFT, ``fine-tune.py``, three epochs over four requests in a fixed order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from easyedit_lifelong.methods.finetune.penalties import clamp_change, ewc_penalty, fisher_information
from easyedit_lifelong.methods.training.example_passes import ExamplePasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.methods.training.train import Schedule, train
from easyedit_lifelong.models.encoding import encode_pair
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.runner import Runner
from tests.support.toy_method import make_pair

GOLDEN = load_file(Path(__file__).parents[2] / "golden" / "finetune_authors.safetensors")
PATHS = {"gpt2": "transformer.h.1.mlp.c_proj", "llama": "model.layers.1.mlp.down_proj"}
FACTS = [
    ("The capital of France is", "Rome"),
    ("Marie Curie was born in", "London"),
    ("The Eiffel Tower stands in", "Warsaw"),
    ("Where was Alan Turing born?", "Paris"),
    ("The city of Berlin is", "London"),
    ("The capital of Italy is", "Berlin"),
    ("Alan Turing worked in the city of", "Rome"),
    ("The old king was born in", "Warsaw"),
    ("Marie Curie worked in", "Berlin"),
    ("I say that you are", "London"),
    ("The capital of Berlin is", "Warsaw"),
]

each_kind = pytest.mark.parametrize("kind", sorted(PATHS))


class Training:
    """A tiny model in float64, and one of its weights, ready to be trained."""

    def __init__(self, kind: str, append_eos: bool = False) -> None:
        self.kind, (model, tokenizer) = kind, make_pair(kind)
        self.model = model.double()
        module = model.get_submodule(PATHS[kind])
        self.passes = ExamplePasses(Runner(model, tokenizer), {PATHS[kind]: module})
        self.start = {PATHS[kind]: module.weight.detach().clone()}
        self.weights = {PATHS[kind]: module.weight.detach().clone().requires_grad_()}
        pairs = [encode_pair(tokenizer, *fact) for fact in FACTS]
        end = [tokenizer.eos_token_id] if append_eos else []
        self.examples = [Example("a test", tuple(pair.prompt), tuple(pair.target + end)) for pair in pairs]

    @property
    def weight(self) -> Tensor:
        return self.weights[PATHS[self.kind]]

    def train(self, examples: list[Example], schedule: Schedule, *args: Any, **kwargs: Any) -> Tensor:
        with editing(self.model), frozen(self.model):
            return torch.tensor(train(self.passes, self.weights, examples, schedule, *args, **kwargs)).double()

    def gradient(self, example: Example) -> Tensor:
        with editing(self.model), frozen(self.model):
            loss = self.passes.losses([example], self.weights).losses.sum()
            return torch.autograd.grad(loss, self.weight)[0]


def assert_same(actual: Tensor, name: str) -> None:
    torch.testing.assert_close(actual.detach(), GOLDEN[name], rtol=1e-5, atol=1e-5)


@each_kind
def test_ft_equals_graces(kind: str) -> None:
    run = Training(kind)
    for number in range(2):
        losses = run.train(run.examples[number : number + 1], Schedule(5, 1e-2))
        assert_same(losses, f"{kind}.ft.losses{number}")
        assert_same(run.weight, f"{kind}.ft.weight{number}")
    assert float((run.weight.detach() - run.start[PATHS[kind]]).abs().max()) > 0.03


@each_kind
def test_ft_ewc_equals_graces_with_its_fisher_information(kind: str) -> None:
    run = Training(kind)
    earlier = run.examples[:10]
    # GRACE's gradients add up from one edit to the next, the latest edit first, and the sum is divided by 10.
    gradients = torch.stack([run.gradient(example) for example in reversed(earlier)])
    theirs = gradients.cumsum(dim=0).square().mean(dim=0)
    assert_same(theirs, f"{kind}.ewc.fisher")
    with editing(run.model), frozen(run.model):
        ours = fisher_information(run.passes, run.weights, earlier)[PATHS[kind]]
    torch.testing.assert_close(ours, gradients.square().mean(dim=0))
    assert float((ours - theirs).norm()) > 0.5 * float(theirs.norm()), "the fault makes no difference here"

    penalty = ewc_penalty(100.0, {PATHS[kind]: theirs}, run.start)
    losses = run.train(run.examples[10:], Schedule(5, 1e-2), [penalty])
    assert float(losses[1]) > float(losses[0]), "the penalty has no effect"
    assert_same(losses, f"{kind}.ewc.losses")
    assert_same(run.weight, f"{kind}.ewc.weight")


@each_kind
def test_ft_retrain_equals_graces(kind: str) -> None:
    run = Training(kind)
    run.train(run.examples[:3], Schedule(5, 1e-2))
    assert_same(run.weight, f"{kind}.retrain.replayed")
    losses = run.train(run.examples[3:4], Schedule(5, 1e-2))
    assert_same(losses, f"{kind}.retrain.losses")
    assert_same(run.weight, f"{kind}.retrain.weight")


@each_kind
def test_ft_l_equals_romes(kind: str) -> None:
    run = Training(kind)
    assert all(len(example.target) == 1 for example in run.examples[:2])

    def constrain(weights: Any) -> None:
        clamp_change(weights, run.start, 1.2e-3, "linf")

    losses = run.train(run.examples[:2], Schedule(5, 5e-4, stop_loss=1e-2), constrain=constrain)
    assert_same(losses, f"{kind}.ftl.losses")
    delta = run.weight.detach() - run.start[PATHS[kind]]
    torch.testing.assert_close(delta, GOLDEN[f"{kind}.ftl.delta"], rtol=0, atol=1e-9)
    at_limit = (delta.abs() - 1.2e-3).abs() < 1e-9
    assert 0.1 < float(at_limit.double().mean()) < 1, "the limit must hold back some weights and not all"


@each_kind
def test_locft_bf_equals_its_authors(kind: str) -> None:
    run = Training(kind, append_eos=True)
    # In the authors' code, padding on the left shifts the absolute positions of GPT-2, so it gets no padding here.
    size = 1 if kind == "gpt2" else 2
    losses = run.train(run.examples[:4], Schedule(3, 5e-4, examples_per_step=size, stop_loss=1e-2))
    assert_same(losses, f"{kind}.locft.losses")
    torch.testing.assert_close(run.weight.detach(), GOLDEN[f"{kind}.locft.weight"], rtol=0, atol=1e-7)
