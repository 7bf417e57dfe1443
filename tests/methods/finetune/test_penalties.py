"""The norm constraint and the KL penalty, by their definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.methods.finetune.penalties import clamp_change, kl_penalty
from easyedit_lifelong.methods.training.example_passes import ExamplePasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer

PATH = "model.layers.1.mlp.down_proj"
EXAMPLES = [Example("a", (5, 9, 11, 20), (30, 8)), Example("b", (12,), (14,)), Example("c", (21, 9), (6,))]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_change_beyond_the_limit_is_cut_and_a_smaller_one_stays(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    change = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    size = float(change.abs().max() if norm == "linf" else change.norm())
    weights = {"far": center + change, "near": center + change * 0.1}
    near = weights["near"].clone()
    clamp_change(weights, {"far": center, "near": center}, size / 4, norm)
    assert torch.equal(weights["near"], near)
    left = weights["far"] - center
    if norm == "linf":
        torch.testing.assert_close(left, change.clamp(-size / 4, size / 4))
    else:
        torch.testing.assert_close(left, change / 4)


def test_the_kl_penalty_is_the_mean_divergence_within_the_prompts() -> None:
    model: Any = build_model("llama", torch.float64)
    module = model.get_submodule(PATH)
    before = {PATH: module.weight.detach().clone()}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(module.weight.shape, generator=generator, dtype=torch.float64)
    weights = {PATH: (before[PATH] + 0.1 * noise).requires_grad_()}

    def prompt_log_probs() -> torch.Tensor:
        rows = [model(torch.tensor([example.prompt])).logits[0, :-1] for example in EXAMPLES]
        return torch.cat(rows).log_softmax(dim=1)

    with editing(model), frozen(model):
        penalty = kl_penalty(0.5, ExamplePasses(Runner(model, build_tokenizer()), {PATH: module}), before)
        assert float(penalty(EXAMPLES, {PATH: before[PATH]})) == 0
        actual = penalty(EXAMPLES, weights)
        (gradient,) = torch.autograd.grad(actual, weights[PATH])
        assert float(gradient.norm()) > 0
        log_probs_before = prompt_log_probs()
        module.weight.copy_(weights[PATH].detach())
        now = prompt_log_probs()
        expected = 0.5 * (now.exp() * (now - log_probs_before)).sum(dim=1).mean()
        torch.testing.assert_close(actual.detach(), expected)
        assert float(penalty(EXAMPLES[1:2], weights)) == 0, "a prompt of one token predicts nothing within itself"
