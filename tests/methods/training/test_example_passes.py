"""The losses of examples are those of the definition, and computing them changes nothing in the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from easyedit_lifelong import EditError
from easyedit_lifelong.methods.training.example_passes import ExampleLosses, ExamplePasses
from easyedit_lifelong.methods.training.examples import Example
from easyedit_lifelong.models.model_modes import editing, frozen
from easyedit_lifelong.models.runner import Runner
from tests.support.tiny_models import build_model, build_tokenizer, state_of

DOWN = {
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gemma2": "model.layers.{}.mlp.down_proj",
}
EXAMPLES = [
    Example("long", (5, 9, 11, 20, 7), (30, 8)),
    Example("short", (12,), (14,)),
    Example("middle", (21, 9, 6), (17, 16, 15)),
]


def projection_of(model: Any, family: str, block: int) -> dict[str, nn.Module]:
    path = DOWN.get(family, "model.layers.{}.mlp.down_proj").format(block)
    return {path: model.get_submodule(path)}


def expected_loss(model: Any, example: Example) -> Tensor:
    """Return the mean cross-entropy of the target tokens, from one full pass over the example alone."""
    logits = model(torch.tensor([example.tokens])).logits[0]
    log_probs = logits[len(example.prompt) - 1 : -1].log_softmax(dim=1)
    return -log_probs[range(len(example.target)), list(example.target)].mean()


@pytest.mark.parametrize("block", [0, 2])
def test_losses_and_gradients_equal_those_of_full_passes(family: str, block: int) -> None:
    model = build_model(family)
    modules = projection_of(model, family, block)
    ((path, module),) = modules.items()
    with editing(model):
        expected = torch.stack([expected_loss(model, example) for example in EXAMPLES])
        (expected_gradient,) = torch.autograd.grad(expected.mean(), module.weight)
        passes = ExamplePasses(Runner(model, build_tokenizer()), modules)
        weights = {path: module.weight.detach().clone().requires_grad_()}
        with frozen(model):
            for _ in range(2):  # the second time, the constant blocks do not run
                losses = passes.losses(EXAMPLES, weights).losses
                torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
                (gradient,) = torch.autograd.grad(losses.mean(), weights[path])
                torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


def test_only_the_given_weights_get_gradients_and_the_model_is_not_changed(llama: Any) -> None:
    before, modules = state_of(llama), projection_of(llama, "llama", 1)
    llama.lm_head.weight.requires_grad_(False)
    ((path, module),) = modules.items()
    weights = {path: (module.weight.detach() * 2).requires_grad_()}
    passes = ExamplePasses(Runner(llama, build_tokenizer()), modules)
    with editing(llama), frozen(llama):
        plain = passes.losses(EXAMPLES)
        assert not plain.losses.requires_grad
        changed = passes.losses(EXAMPLES, weights)
        changed.losses.sum().backward()
    assert not torch.equal(plain.losses, changed.losses)
    assert weights[path].grad is not None
    assert all(parameter.grad is None for parameter in llama.parameters())
    assert [name for name, parameter in llama.named_parameters() if not parameter.requires_grad] == ["lm_head.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert "weight" not in vars(module)


def test_blocks_below_the_first_edited_one_run_once_per_example(llama: Any) -> None:
    calls: list[int] = []
    for number, block in enumerate(llama.model.layers):
        block.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    passes = ExamplePasses(Runner(llama, build_tokenizer()), projection_of(llama, "llama", 2))
    with editing(llama), torch.no_grad():
        for examples in (EXAMPLES[:2], EXAMPLES[1:], EXAMPLES):
            passes.losses(examples)
    # One pass over the lower blocks for the first two examples, one for the third.
    assert calls == [0, 1, 2, 3, 0, 1, 2, 3, 2, 3]


def test_an_example_is_correct_if_every_target_token_is_the_most_probable_one(llama: Any) -> None:
    passes = ExamplePasses(Runner(llama, build_tokenizer()), projection_of(llama, "llama", 2))
    prompt = (5, 9, 11)
    with editing(llama), torch.no_grad():
        first = int(llama(torch.tensor([prompt])).logits[0, -1].argmax())
        second = int(llama(torch.tensor([(*prompt, first)])).logits[0, -1].argmax())
        examples = [
            Example("", prompt, target) for target in ((first, second), (first, second + 1), (first + 1, second))
        ]
        assert passes.losses(examples).correct.tolist() == [True, False, False]


def test_a_loss_that_is_not_finite_names_the_edit() -> None:
    result = ExampleLosses(torch.tensor([1.0, float("nan"), float("inf")]), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(EditError, match="short: the loss became nan after 3 steps; a smaller lr may help"):
        result.check_finite(EXAMPLES, "after 3 steps")


def test_logits_at_targets_and_at_all_tokens_are_those_of_full_passes(llama: Any) -> None:
    passes = ExamplePasses(Runner(llama, build_tokenizer()), projection_of(llama, "llama", 2))
    with torch.no_grad():
        full = [llama(torch.tensor([example.tokens])).logits[0] for example in EXAMPLES]
        at_targets = [logits[len(example.prompt) - 1 : -1] for example, logits in zip(EXAMPLES, full, strict=True)]
        torch.testing.assert_close(passes.all_logits(EXAMPLES), torch.cat(full), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(passes.target_logits(EXAMPLES), torch.cat(at_targets), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("limit", "kept"), [(None, 3), (0, 0), (7 * 32 * 4, 1)])
def test_constant_outputs_are_kept_up_to_a_limit(llama: Any, limit: int | None, kept: int) -> None:
    passes = ExamplePasses(
        Runner(llama, build_tokenizer()), projection_of(llama, "llama", 2), rows_at_once=1, max_kept_bytes=limit
    )
    with torch.no_grad():
        first = passes.losses(EXAMPLES).losses
        assert torch.equal(passes.losses(EXAMPLES).losses, first)
    assert len(passes._constant_outputs) == kept


def test_with_one_row_at_once_a_constant_output_does_not_depend_on_the_other_examples(llama: Any) -> None:
    modules = projection_of(llama, "llama", 2)
    together, alone = (ExamplePasses(Runner(llama, build_tokenizer()), modules, rows_at_once=1) for _ in range(2))
    with torch.no_grad():
        together.losses(EXAMPLES)
        for example in EXAMPLES:
            alone.losses([example])
            assert torch.equal(alone._constant_outputs[example], together._constant_outputs[example])


def test_the_first_edited_block_is_found_in_any_order_of_the_projections(llama: Any) -> None:
    modules = projection_of(llama, "llama", 3) | projection_of(llama, "llama", 1)
    passes = ExamplePasses(Runner(llama, build_tokenizer()), modules)
    weights = {path: module.weight.detach() * 2 for path, module in modules.items()}
    with torch.no_grad():
        losses = passes.losses(EXAMPLES, weights).losses
        for module in modules.values():
            module.weight.mul_(2)
        expected = torch.stack([expected_loss(llama, example) for example in EXAMPLES])
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
