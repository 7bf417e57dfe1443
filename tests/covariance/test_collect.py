"""Second moments of all modules are collected in one partial pass and equal a float64 reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance import collect_covariance
from easyedit_lifelong.covariance.collect import KeyCollector
from easyedit_lifelong.covariance.moments import MomentSum
from easyedit_lifelong.errors import CovarianceError
from easyedit_lifelong.models.anatomy import anatomy_of
from tests.support.second_moments import MODULES, assert_close, count_tokens, float64_sums
from tests.support.tiny_models import build_model, build_tokenizer, state_of


@pytest.mark.parametrize("side", ["left", "right"])
def test_moments_equal_a_direct_float64_computation(family: str, side: str, texts: list[str], tmp_path: Any) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    tokenizer.padding_side = side
    found = collect_covariance(model, tokenizer, [0, 2], texts, samples=30, out=tmp_path)
    modules = [MODULES[family].format(layer) for layer in (0, 2)]
    assert list(found) == modules
    expected = float64_sums(model, tokenizer, modules, texts)
    for module in modules:
        assert found[module].count == count_tokens(tokenizer, texts)
        assert found[module].moment.dtype == torch.float32
        assert torch.equal(found[module].moment, found[module].moment.t())
        assert_close(found[module].moment, expected[module] / found[module].count)


def test_layers_given_by_path_or_by_template_give_the_same_moments(
    llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any
) -> None:
    by_path = collect_covariance(
        llama, tokenizer, ["model.layers[1].mlp.up_proj.weight"], texts, samples=30, out=tmp_path
    )
    by_template = collect_covariance(
        llama, tokenizer, [1], texts, module_template="model.layers.{}.mlp.up_proj", samples=30, out=tmp_path / "b"
    )
    module = "model.layers.1.mlp.up_proj"
    assert list(by_path) == list(by_template) == [module]
    assert torch.equal(by_path[module].moment, by_template[module].moment)
    expected = float64_sums(llama, tokenizer, [module], texts)[module] / by_path[module].count
    assert_close(by_path[module].moment, expected)


def test_blocks_above_the_last_module_do_not_run(family: str, texts: list[str], tmp_path: Any) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    anatomy = anatomy_of(model)
    calls = [0] * len(anatomy.blocks)
    last = model.get_submodule(MODULES[family].format(1))
    completed: list[str] = []
    for i, block in enumerate(anatomy.blocks):
        block.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    last.register_forward_hook(lambda *_: completed.append("last"))
    anatomy.blocks[1].register_forward_hook(lambda *_: completed.append("block"))
    anatomy.head.register_forward_hook(lambda *_: completed.append("head"))
    # The layers are given in another order than that in which they run.
    collect_covariance(model, tokenizer, [1, 0], texts, samples=30, out=tmp_path)
    assert calls[0] == calls[1] > 0
    assert calls[2:] == [0, 0]
    assert completed == []


def test_all_modules_are_collected_in_one_pass(llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any) -> None:
    calls = [0, 0]
    for i, folder, layers in ((0, "one", [3]), (1, "all", [0, 1, 2, 3])):
        handle = llama.model.layers[0].register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
        collect_covariance(llama, tokenizer, layers, texts, samples=30, out=tmp_path / folder)
        handle.remove()
    assert calls[0] == calls[1] > 0


def test_collecting_restores_modes_hooks_weights_and_the_random_generator(
    llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any
) -> None:
    llama.train()
    llama.model.layers[2].eval()
    before, generator = state_of(llama), torch.get_rng_state()
    collect_covariance(llama, tokenizer, [1], texts, samples=30, out=tmp_path)
    collect_covariance(llama, tokenizer, [1], "self", tokens=50, out=tmp_path)
    assert llama.training and llama.model.layers[1].training and not llama.model.layers[2].training
    assert not any(module._forward_pre_hooks for module in llama.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_dropout_is_off_while_collecting(texts: list[str], tmp_path: Any) -> None:
    model, tokenizer = build_model("gpt2").train(), build_tokenizer()
    module = MODULES["gpt2"].format(2)
    found = collect_covariance(model, tokenizer, [2], texts, samples=30, out=tmp_path)[module]
    assert_close(found.moment, float64_sums(model.eval(), tokenizer, [module], texts)[module] / found.count)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_collected_with_small_error(
    dtype: torch.dtype, texts: list[str], tmp_path: Any
) -> None:
    model, tokenizer = build_model("llama", dtype), build_tokenizer()
    module = MODULES["llama"].format(1)
    found = collect_covariance(model, tokenizer, [1], texts, samples=30, out=tmp_path)[module]
    assert_close(found.moment, float64_sums(model, tokenizer, [module], texts)[module] / found.count, 0.05)


def test_keys_are_read_after_other_hooks_changed_them(
    llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any
) -> None:
    module = MODULES["llama"].format(1)
    plain = collect_covariance(llama, tokenizer, [1], texts, samples=30, out=tmp_path / "a")[module]
    llama.get_submodule(module).register_forward_pre_hook(lambda _, args: (2 * args[0],))
    edited = collect_covariance(llama, tokenizer, [1], texts, samples=30, out=tmp_path / "b")[module]
    torch.testing.assert_close(edited.moment, 4 * plain.moment)


def test_a_shorter_context_only_cuts_documents_into_rows(
    llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any
) -> None:
    """The moments equal those of the pieces as separate texts."""
    module = MODULES["llama"].format(1)
    short = collect_covariance(llama, tokenizer, [1], texts, tokens=10**5, context=7, out=tmp_path)[module]
    words = [text.split() for text in texts]
    pieces = [" ".join(text[i : i + 7]) for text in words for i in range(0, len(text), 7)]
    assert short.count == count_tokens(tokenizer, texts)
    assert_close(short.moment, float64_sums(llama, tokenizer, [module], pieces)[module] / short.count)


def test_a_module_that_never_runs_is_refused_by_name(
    llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any
) -> None:
    llama.spare = torch.nn.Linear(32, 32)
    with pytest.raises(CovarianceError, match="spare: didn't run"):
        collect_covariance(llama, tokenizer, ["spare"], texts, samples=30, out=tmp_path)
    assert not any(module._forward_pre_hooks for module in llama.modules())


def test_inputs_without_one_key_per_token_are_refused(llama: Any) -> None:
    module = llama.model.layers[0].mlp.down_proj
    llama.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: (args[0][:, :1],))
    collector = KeyCollector(llama, {"model.layers.0.mlp.down_proj": MomentSum(48)}, 0)
    with pytest.raises(CovarianceError, match=r"down_proj: its inputs .* aren't one key per token"):
        collector.add_rows([[5, 6, 7]])
    assert not module._forward_pre_hooks


def test_keys_with_nan_are_refused_with_the_module(llama: Any, tokenizer: Any, texts: list[str], tmp_path: Any) -> None:
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(CovarianceError, match=r"model.layers.1.mlp.down_proj: the keys hold NaN"):
        collect_covariance(llama, tokenizer, [0, 1], texts, samples=30, out=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))
