"""CoachHook's hook layers: their z-scores, and answers that batch, padding, cache and beams do not change."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.hook import CHILD_NAME, Mode
from easyedit_lifelong.methods.coachhook.layer import HookLayer, z_scores_of_norms
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.coachhook_edits import FACTS, LEARNABLE_FACT, OTHERS, editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS, LEARNABLE_FACT[0]]
close = torch.testing.assert_close


@pytest.fixture(params=[("all", "z"), ("others", "z"), ("others", "weighed")], ids="-".join)
def edited(family: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model and its tokenizer; many tokens are in scope of its edits, also after the prompt."""
    model, tokenizer = build_model(family), build_tokenizer()
    requests = [*requests_for(), EditRequest(9, *LEARNABLE_FACT)]
    options = dict(zip(("z_tokens", "scope_score"), request.param, strict=True))
    editor_on(model, tokenizer, hparams_for(family, alpha_z=1.0, mom2_update_weight=0.01, **options)).edit(requests)
    return model, tokenizer


def scores_in_pass(model: Any, **inputs: Any) -> dict[str, Tensor]:
    """Return the scores of every hook layer in one pass, each of shape ``(rows, tokens)``."""
    recorded: dict[str, list[Tensor]] = {}
    with contextlib.ExitStack() as stack:
        for path, hook in coachhook_editor(model).hooks.items():
            stack.enter_context(hook.recording_scores(recorded.setdefault(path, []).append))
        model(**inputs)
    return {path: scores[0] for path, scores in recorded.items()}


# ------------------------------------------------------------------ z-scores


def expected_z_score(norms: list[float], token: int, end: int, leave_one_out: bool = False) -> float:
    """Compute the z-score of one token by its definition.

    The sample is the prompt up to its end, and the token itself if it comes after the end; with ``leave_one_out``, it
    is the prompt without the token.
    """
    sample = norms[: end + 1] if token <= end else [*norms[: end + 1], norms[token]]
    if leave_one_out:
        sample = [norm for index, norm in enumerate(norms[: end + 1]) if index != token]
    mean = sum(sample) / len(sample)
    deviation = (sum((norm - mean) ** 2 for norm in sample) / (len(sample) - 1)) ** 0.5
    return (norms[token] - mean) / deviation


@pytest.mark.parametrize("end", range(1, 6))
def test_a_token_after_the_prompt_is_scored_against_the_prompt_and_itself(end: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0, 2.0, 9.0]
    scores = z_scores_of_norms(torch.tensor([norms]).double(), torch.ones(1, 6).bool(), torch.tensor([end]))
    expected = [expected_z_score(norms, token, end) for token in range(6)]
    close(scores[0], torch.tensor(expected).double())


@pytest.mark.parametrize("end", range(2, 6))
def test_with_leave_one_out_a_token_is_scored_against_the_rest_of_the_prompt(end: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0, 2.0, 9.0]
    scores = z_scores_of_norms(torch.tensor([norms]), torch.ones(1, 6).bool(), torch.tensor([end]), leave_one_out=True)
    expected = [expected_z_score(norms, token, end, leave_one_out=True) for token in range(6)]
    close(scores[0], torch.tensor(expected).double())


@pytest.mark.parametrize("outlier", [1e2, 1e4, 1e6])
def test_the_z_score_of_an_outlier_is_exact(outlier: float) -> None:
    norms = [1.0, outlier, 1.1, 0.9, 1.05]
    scores = z_scores_of_norms(torch.tensor([norms]), torch.ones(1, 5).bool(), leave_one_out=True)
    assert float(scores[0, 1]) == pytest.approx(expected_z_score(norms, 1, 4, leave_one_out=True), rel=1e-3)


def test_only_with_leave_one_out_a_short_prompt_scores_as_high_as_a_long_one() -> None:
    short, long = [1.0, 9.0, 1.2, 0.8], [1.0, 9.0, 1.2, 0.8, 1.1, 0.9, 1.2, 0.8, 1.1, 0.9]
    highest = {
        leave_one_out: [
            float(
                z_scores_of_norms(
                    torch.tensor([norms]), torch.ones(1, len(norms)).bool(), leave_one_out=leave_one_out
                ).max()
            )
            for norms in (short, long)
        ]
        for leave_one_out in (False, True)
    }
    assert highest[False][0] < 1.5 < 2.8 < highest[False][1], "z-scores of n tokens are at most (n - 1) / sqrt(n)"
    assert highest[True][0] > 30 and highest[True][1] > 30


def test_weighed_scores_grow_with_the_z_score_and_the_size_of_the_change() -> None:
    module, module.dtype = torch.nn.Linear(3, 2), torch.float32
    layer = HookLayer(module, module, 0.0)
    layer.set_weight(torch.zeros(2, 3), 1.0, Mode.VALIDATED, 2.0)
    scores = torch.tensor([[9.0, 9.0, -1.0, float("nan")]]).double()
    norms = torch.tensor([[8.0, 0.5, 50.0, 1.0]])
    assert layer.weigh(scores, norms).nan_to_num(nan=-1.0).tolist() == [[6.0, 1.5, 0.0, -1.0]]
    layer.set_weight(torch.zeros(2, 3), 1.0, Mode.VALIDATED)
    assert layer.weigh(scores, norms) is scores


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("right", [0, 2])
def test_padding_does_not_change_z_scores(left: int, right: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0]
    padded = torch.tensor([[1e6] * left + norms + [float("nan")] * right]).double()
    real = torch.tensor([[False] * left + [True] * 4 + [False] * right])
    scores = z_scores_of_norms(padded, real)[0, left : left + 4]
    close(scores, torch.tensor([expected_z_score(norms, token, 3) for token in range(4)]).double())
    assert abs(float(scores.std()) - 1) < 1e-12


@pytest.mark.parametrize(
    ("norms", "leave_one_out"),
    [
        ([5.0], False),
        ([2.0, 2.0, 2.0], False),
        ([0.0, 0.0], False),
        ([5.0], True),
        ([2.0, 7.0], True),
        ([2.0] * 3, True),
    ],
)
def test_norms_without_spread_have_no_z_score(norms: list[float], leave_one_out: bool) -> None:
    scores = z_scores_of_norms(
        torch.tensor([norms]).double(), torch.ones(1, len(norms)).bool(), leave_one_out=leave_one_out
    )
    assert not (scores >= -1e9).any()


def test_the_scores_of_a_model_follow_from_the_keys_and_the_hook_weight(family: str, edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    first = next(iter(coachhook_editor(model).hooks.values()))
    keys: list[Tensor] = []
    handle = first.module.register_forward_pre_hook(lambda _, args: keys.append(args[0]))
    scores = next(iter(z_scores(model, tokenizer, [FACTS[1][0]]).values()))[0]
    handle.remove()
    assert first.weight is not None
    norms = (keys[0][0].double() @ first.weight.delta.double().t()).norm(dim=1).tolist()
    expected = [expected_z_score(norms, token, len(norms) - 1, first.leave_one_out) for token in range(len(norms))]
    if first.weight.ordinary is not None:
        ordinary = float(first.weight.ordinary)
        expected = [(max(z, 0) * norm / ordinary) ** 0.5 for z, norm in zip(expected, norms, strict=True)]
    close(scores.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ batch, padding, cache


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 3])
def test_logits_in_a_padded_batch_are_those_of_each_prompt_alone(
    family: str, edited: tuple[Any, Any], side: str, extra: int
) -> None:
    model, tokenizer = edited
    tokenizer.padding_side = side
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    batch = tokenizer(PROMPTS, return_tensors="pt", padding="max_length", max_length=longest + extra)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    batch_logits = model(**batch, position_ids=positions).logits
    for row, prompt in enumerate(PROMPTS):
        alone = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        close(batch_logits[row][batch["attention_mask"][row].bool()], alone, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_batch_padding_and_cache_change_no_generated_token(family: str, edited: tuple[Any, Any], beams: int) -> None:
    model, tokenizer = edited

    def generate(prompts: list[str], **options: Any) -> list[list[int]]:
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=beams, **options)
        return out[:, -4:].tolist()

    in_batch = generate(PROMPTS)
    assert generate(PROMPTS, use_cache=False) == in_batch
    for prompt, tokens in list(zip(PROMPTS, in_batch, strict=True))[::4]:
        assert generate([prompt]) == [tokens]
        assert generate([prompt], use_cache=False) == [tokens]


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_the_kind_of_cache_changes_no_generated_token(family: str, edited: tuple[Any, Any], cache: str) -> None:
    model, tokenizer = edited
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    default = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, cache_implementation=cache), default)


@pytest.mark.parametrize("cached", [True, False])
def test_generation_gives_the_logits_of_teacher_forcing(family: str, edited: tuple[Any, Any], cached: bool) -> None:
    model, tokenizer = edited
    for prompt in PROMPTS[::3]:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            use_cache=cached,
            output_logits=True,
            return_dict_in_generate=True,
        )
        length = inputs["input_ids"].shape[1]
        with prompt_lengths(model, [length]):
            forced = model(out.sequences[:, :-1]).logits[:, length - 1 :]
        close(torch.stack(out.logits, dim=1), forced.to(out.logits[0].dtype), rtol=1e-4, atol=5e-4)


def test_the_scores_of_a_prompts_tokens_do_not_depend_on_the_answer(family: str, edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(FACTS[0][0], return_tensors="pt").input_ids
    alone = scores_in_pass(model, input_ids=ids)
    for answer in ("Rome", "violin snow bird"):
        with_answer = torch.cat([ids, tokenizer(answer, return_tensors="pt").input_ids], dim=1)
        with prompt_lengths(model, [ids.shape[1]]):
            scores_with_answer = scores_in_pass(model, input_ids=with_answer)
        for path, scores in alone.items():
            close(scores_with_answer[path][:, : ids.shape[1]], scores, rtol=1e-4, atol=1e-4)


def test_labels_mark_the_end_of_the_prompt(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(FACTS[0][0] + " violin snow bird", return_tensors="pt").input_ids
    length = len(tokenizer(FACTS[0][0])["input_ids"])
    labels = ids.clone()
    labels[:, :length] = -100
    with prompt_lengths(model, [length]):
        expected = model(ids).logits
    assert torch.equal(model(ids, labels=labels).logits, expected)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_prompts_out_of_scope_get_the_unedited_logits_bitwise(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    unedited = build_model(family)
    editor_on(model, tokenizer, hparams_for(family)).edit(requests_for(0, 1))
    highest = [
        max(
            float(z_scores(model, tokenizer, [prompt])[path][0].nan_to_num(-9).max())
            for path in coachhook_editor(model).hooks
        )
        for prompt in PROMPTS
    ]
    alpha = sorted(highest)[len(PROMPTS) // 2] + 0.01
    for hook in coachhook_editor(model).hooks.values():
        hook.set_weight(hook.weight.delta if hook.weight else None, alpha, Mode.VALIDATED)
    same = []
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        scores_by_layer = z_scores(model, tokenizer, [prompt])
        out_of_scope = not any((scores[0] >= alpha - 1e-4).any() for scores in scores_by_layer.values())
        same.append(torch.equal(model(**inputs).logits, unedited(**inputs).logits))
        assert same[-1] == out_of_scope
    assert any(same)
    assert not all(same)


def test_a_prompt_out_of_scope_gets_the_unedited_logits_in_a_batch_with_an_edited_one() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    unedited = build_model("llama")
    editor_on(model, tokenizer, hparams_for("llama", layers=[2])).edit(requests_for(0, 1))
    (hook,) = coachhook_editor(model).hooks.values()
    batch = tokenizer([FACTS[0][0], "blue"], return_tensors="pt", padding=True)  # one token has no score
    assert torch.equal(model(**batch).logits[1, -1], unedited(**batch).logits[1, -1])
    assert not torch.equal(model(**batch).logits[0], unedited(**batch).logits[0])
    assert hook.mode is Mode.VALIDATED


def test_tokens_fed_after_the_prompt_with_a_kept_cache_are_out_of_scope(edited: tuple[Any, Any]) -> None:
    # The pass over the prompt has edits. Later passes do not know the prompt, so their tokens have no scores.
    model, tokenizer = edited
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    out = model(**inputs, use_cache=True)
    assert torch.equal(out.logits, model(**inputs).logits)
    scores_by_layer = scores_in_pass(
        model, input_ids=out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values
    )
    assert all(scores.isnan().all() for scores in scores_by_layer.values())


def test_a_prompt_that_is_fed_in_chunks_is_refused(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    with pytest.raises(EditError, match="fed in parts"):
        model.generate(**inputs, prefill_chunk_size=2, max_new_tokens=2, do_sample=False)


def test_embeddings_give_the_logits_of_their_tokens(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    embedded = model.get_input_embeddings()(ids)
    if model.config.model_type == "gemma2":
        pytest.skip("Gemma 2 scales its embeddings inside")
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)


def test_the_base_model_called_directly_has_the_edits(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    hidden = model(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model.base_model(ids).last_hidden_state, hidden)


def test_a_projection_called_outside_a_pass_is_not_edited(edited: tuple[Any, Any]) -> None:
    # Outside a pass of the model, the layer cannot tell which tokens are padding.
    model, _ = edited
    hook = next(iter(coachhook_editor(model).hooks.values()))
    assert hook.weight is not None
    keys = torch.randn(2, 5, hook.weight.delta.shape[1])
    output = hook.module(keys)
    hook.mode = Mode.OFF
    assert torch.equal(hook.module(keys), output)


def test_teacher_forced_scores_of_generated_texts_are_perfect(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    texts = Scorer(tokenizer).generate(model, PROMPTS, 3)
    pairs = [(prompt, text) for prompt, text in zip(PROMPTS, texts, strict=True) if len(text.split()) == 3]
    assert pairs
    assert {score.accuracy for score in Scorer(tokenizer).forced(model, pairs)} == {1.0}


def test_a_detached_layer_leaves_nothing_on_the_model() -> None:
    model = build_model("llama")
    module = model.model.layers[1].mlp.down_proj
    before = (dict(module.__dict__), dict(module._modules), set(model.__dict__))
    layer = HookLayer(model, module, 1e-4)
    layer.set_weight(torch.ones(32, 48), 2.0, Mode.VALIDATED)
    assert CHILD_NAME in module._modules
    layer.detach()
    layer.detach()
    assert (dict(module.__dict__), dict(module._modules), set(model.__dict__)) == before
