"""Losses and output gradients of answers, against plain forward and backward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from easyedit_lifelong.errors import ModelError
from easyedit_lifelong.models.answer_passes import AnswerPasses
from easyedit_lifelong.models.encoding import EncodedPair
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer

PAIRS = [
    EncodedPair([5, 6, 7, 8, 9, 10, 11], [12, 13]),
    EncodedPair([14, 15], [16]),
    EncodedPair([17, 18, 19, 20], [21, 22, 23]),
    EncodedPair([3, 4], [30]),
]
MODULES = {
    "llama": ["model.layers.1.mlp.gate_proj", "model.layers.1.self_attn.v_proj", "model.layers.3.mlp.down_proj"],
    "gpt2": ["transformer.h.1.attn.c_attn", "transformer.h.2.mlp.c_fc", "transformer.h.3.mlp.c_proj"],
}

each_family = pytest.mark.parametrize("family", sorted(MODULES))


def passes_for(family: str, pairs: list[EncodedPair] = PAIRS, rows_per_pass: int = 10) -> tuple[Any, AnswerPasses]:
    model = build_model(family, torch.float64)
    return model, AnswerPasses(Runner(model, build_tokenizer()), pairs, rows_per_pass)


def modules_of(model: Any, family: str) -> dict[str, torch.nn.Module]:
    return {path: model.get_submodule(path) for path in MODULES[family]}


def by_definition(model: Any, path: str, pair: EncodedPair) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Return inputs and output gradients of a module at the answer's positions, and the loss, from one plain pass."""
    seen: dict[str, torch.Tensor] = {}

    def hook(_: Any, args: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.update(input=args[0], output=output)

    with model.get_submodule(path).register_forward_hook(hook):
        logits = model(torch.tensor([pair.tokens])).logits[0]
    answer = slice(len(pair.prompt) - 1, len(pair.tokens) - 1)
    losses = F.cross_entropy(logits[answer], torch.tensor(pair.target), reduction="none")
    losses.sum().backward()
    gradient = seen["output"].grad
    assert gradient is not None
    model.zero_grad()
    return seen["input"][0, answer].detach(), gradient[0, answer], float(losses.mean())


@each_family
def test_inputs_gradients_and_losses_are_those_of_a_plain_pass_over_each_pair(family: str) -> None:
    model, passes = passes_for(family)
    found, losses = passes.gradients(modules_of(model, family))
    for path in MODULES[family]:
        rows = [by_definition(model, path, pair) for pair in PAIRS]
        torch.testing.assert_close(found[path].inputs, torch.cat([row[0] for row in rows]), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[path].gradients, torch.cat([row[1] for row in rows]), rtol=1e-9, atol=1e-12)
        assert [loss.loss for loss in losses] == pytest.approx([row[2] for row in rows], rel=1e-9)
    assert [loss.loss for loss in passes.losses()] == pytest.approx([loss.loss for loss in losses], rel=1e-12)


@each_family
@pytest.mark.parametrize("rows_per_pass", [1, 2, 10])
def test_neighbours_and_padding_change_nothing(family: str, rows_per_pass: int) -> None:
    model, passes = passes_for(family, rows_per_pass=rows_per_pass)
    found, losses = passes.gradients(modules_of(model, family))
    begin = 0
    for index, pair in enumerate(PAIRS):
        _, alone = passes_for(family, [pair])
        one, (loss,) = alone.gradients(modules_of(alone._runner.model, family))
        end = begin + len(pair.target)
        for path in MODULES[family]:
            torch.testing.assert_close(found[path].gradients[begin:end], one[path].gradients, rtol=1e-9, atol=1e-12)
        assert losses[index].correct == loss.correct
        begin = end


def test_a_pair_that_the_model_predicts_is_correct() -> None:
    model, _ = passes_for("llama")
    prompt = [5, 6, 7]
    best = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    other = (best + 1) % 64
    pairs = [EncodedPair(prompt, [best]), EncodedPair(prompt, [other])]
    losses = AnswerPasses(Runner(model, build_tokenizer()), pairs, 10).losses()
    assert [loss.correct for loss in losses] == [True, False]


@pytest.mark.parametrize("trainable", [True, False])
def test_parameters_get_no_gradients_and_stay_as_trainable_as_they_were(trainable: bool) -> None:
    model, passes = passes_for("llama")
    model.requires_grad_(trainable)
    model.lm_head.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    found, _ = passes.gradients(modules_of(model, "llama"))
    assert all(part.gradients.abs().max() > 0 for part in found.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_a_module_without_a_vector_for_every_token_is_refused() -> None:
    model, passes = passes_for("llama")
    with pytest.raises(ModelError, match=r"embedding gets no vector for every token"):
        passes.gradients({"embedding": model.get_input_embeddings()})


def test_a_module_that_the_answers_do_not_depend_on_is_refused() -> None:
    model, passes = passes_for("llama")
    unused = torch.nn.Linear(32, 32).double()

    def run_unused(_: Any, args: Any) -> None:
        unused(args[0])

    model.model.layers[1].register_forward_pre_hook(run_unused)
    with pytest.raises(ModelError, match="unused: the answers do not depend on its output"):
        passes.gradients({"unused": unused})
