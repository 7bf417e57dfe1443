"""What an edited model says does not depend on batch, padding, cache, beams, or how it is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.coachhook.editor import coachhook_editor
from easyedit_lifelong.methods.coachhook.layer import CHILD_NAME, HookLayer, Mode, z_scores_of_norms
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.coachhook_edits import FACTS, LEARNABLE, OTHERS, editor_on, hparams_for, requests_for
from tests.support.tiny_models import build_model, build_tokenizer

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS, LEARNABLE[0]]
close = torch.testing.assert_close


@pytest.fixture(params=[("all", "z"), ("others", "z"), ("others", "weighed")], ids="-".join)
def edited(family: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model with edits that show: its prompts' tokens are in scope often, also behind the prompt."""
    model, tokenizer = build_model(family), build_tokenizer()
    requests = [*requests_for(), EditRequest(9, *LEARNABLE)]
    options = dict(zip(("z_tokens", "scope_score"), request.param, strict=True))
    editor_on(model, tokenizer, hparams_for(family, alpha_z=1.0, mom2_update_weight=0.01, **options)).edit(requests)
    return model, tokenizer


def decisions(model: Any, **inputs: Any) -> dict[str, Tensor]:
    """The z-scores of every hook layer in one pass."""
    found: dict[str, list[Tensor]] = {}
    handles = []
    for path, hook in coachhook_editor(model).hooks.items():
        context = hook.recording_scores(found.setdefault(path, []).append)
        context.__enter__()
        handles.append(context)
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.__exit__(None, None, None)
    return {path: scores[0] for path, scores in found.items()}


# z-scores by hand.


def by_hand(norms: list[float], of: int, end: int, others: bool = False) -> float:
    """The z-score of one token against the prompt, and itself if it comes behind, or against the others."""
    judged = norms[: end + 1] if of <= end else [*norms[: end + 1], norms[of]]
    if others:
        judged = [norm for index, norm in enumerate(norms[: end + 1]) if index != of]
    mean = sum(judged) / len(judged)
    deviation = (sum((x - mean) ** 2 for x in judged) / (len(judged) - 1)) ** 0.5
    return (norms[of] - mean) / deviation


@pytest.mark.parametrize("end", range(1, 6))
def test_a_token_behind_the_prompt_is_judged_against_the_prompt_and_itself(end: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0, 2.0, 9.0]
    scores = z_scores_of_norms(torch.tensor([norms]).double(), torch.ones(1, 6).bool(), torch.tensor([end]))
    expected = [by_hand(norms, of, end) for of in range(6)]
    close(scores[0], torch.tensor(expected).double())


@pytest.mark.parametrize("end", range(2, 6))
def test_or_every_token_is_judged_against_the_others_of_the_prompt(end: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0, 2.0, 9.0]
    scores = z_scores_of_norms(torch.tensor([norms]), torch.ones(1, 6).bool(), torch.tensor([end]), leave_one_out=True)
    expected = [by_hand(norms, of, end, others=True) for of in range(6)]
    close(scores[0], torch.tensor(expected).double())


@pytest.mark.parametrize("height", [1e2, 1e4, 1e6])
def test_a_token_that_stands_out_by_much_is_scored_exactly(height: float) -> None:
    norms = [1.0, height, 1.1, 0.9, 1.05]
    scores = z_scores_of_norms(torch.tensor([norms]), torch.ones(1, 5).bool(), leave_one_out=True)
    assert float(scores[0, 1]) == pytest.approx(by_hand(norms, 1, 4, others=True), rel=1e-3)


def test_judged_against_the_others_a_short_prompt_can_score_as_high_as_a_long_one() -> None:
    short, long = [1.0, 9.0, 1.2, 0.8], [1.0, 9.0, 1.2, 0.8, 1.1, 0.9, 1.2, 0.8, 1.1, 0.9]
    highest = {
        others: [
            float(
                z_scores_of_norms(torch.tensor([norms]), torch.ones(1, len(norms)).bool(), leave_one_out=others).max()
            )
            for norms in (short, long)
        ]
        for others in (False, True)
    }
    assert highest[False][0] < 1.5 < 2.8 < highest[False][1], "(n - 1) / sqrt(n) is the most there can be"
    assert highest[True][0] > 30 and highest[True][1] > 30


def test_weighed_scores_tell_a_large_change_from_one_that_merely_stands_out() -> None:
    model, model.dtype = torch.nn.Linear(3, 2), torch.float32
    layer = HookLayer(model, model, 0.0)
    layer.set_weight(torch.zeros(2, 3), 1.0, Mode.VALIDATED, 2.0)
    scores = torch.tensor([[9.0, 9.0, -1.0, float("nan")]]).double()
    norms = torch.tensor([[8.0, 0.5, 50.0, 1.0]])
    assert layer.weigh(scores, norms).nan_to_num(nan=-1.0).tolist() == [[6.0, 1.5, 0.0, -1.0]]
    layer.set_weight(torch.zeros(2, 3), 1.0, Mode.VALIDATED)
    assert layer.weigh(scores, norms) is scores


@pytest.mark.parametrize("left", [0, 1, 3])
@pytest.mark.parametrize("right", [0, 2])
def test_padding_has_no_part_in_scores(left: int, right: int) -> None:
    norms = [3.0, 0.5, 7.0, 1.0]
    padded = torch.tensor([[1e6] * left + norms + [float("nan")] * right]).double()
    real = torch.tensor([[False] * left + [True] * 4 + [False] * right])
    scores = z_scores_of_norms(padded, real)[0, left : left + 4]
    close(scores, torch.tensor([by_hand(norms, of, 3) for of in range(4)]).double())
    assert abs(float(scores.std()) - 1) < 1e-12


@pytest.mark.parametrize(
    ("norms", "others"),
    [
        ([5.0], False),
        ([2.0, 2.0, 2.0], False),
        ([0.0, 0.0], False),
        ([5.0], True),
        ([2.0, 7.0], True),
        ([2.0] * 3, True),
    ],
)
def test_no_spread_no_score(norms: list[float], others: bool) -> None:
    scores = z_scores_of_norms(torch.tensor([norms]).double(), torch.ones(1, len(norms)).bool(), leave_one_out=others)
    assert not (scores >= -1e9).any()


def test_scores_of_a_model_are_those_of_its_keys(family: str, edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    first = next(iter(coachhook_editor(model).hooks.values()))
    keys: list[Tensor] = []
    handle = first.module.register_forward_pre_hook(lambda _, args: keys.append(args[0]))
    scores = next(iter(z_scores(model, tokenizer, [FACTS[1][0]]).values()))[0]
    handle.remove()
    assert first.weight is not None
    norms = (keys[0][0].double() @ first.weight.delta.double().t()).norm(dim=1).tolist()
    expected = [by_hand(norms, of, len(norms) - 1, first.leave_one_out) for of in range(len(norms))]
    if first.weight.ordinary is not None:
        ordinary = float(first.weight.ordinary)
        expected = [(max(z, 0) * norm / ordinary) ** 0.5 for z, norm in zip(expected, norms, strict=True)]
    close(scores.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


# Batches, padding, cache.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 3])
def test_neighbours_and_padding_change_nothing_in_logits(
    family: str, edited: tuple[Any, Any], side: str, extra: int
) -> None:
    model, tokenizer = edited
    tokenizer.padding_side = side
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    batch = tokenizer(PROMPTS, return_tensors="pt", padding="max_length", max_length=longest + extra)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = model(**batch, position_ids=positions).logits
    for row, prompt in enumerate(PROMPTS):
        alone = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        close(together[row][batch["attention_mask"][row].bool()], alone, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_batch_padding_and_cache_change_no_generated_token(family: str, edited: tuple[Any, Any], beams: int) -> None:
    model, tokenizer = edited

    def generate(rows: list[str], **options: Any) -> list[list[int]]:
        batch = tokenizer(rows, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=beams, **options)
        return out[:, -4:].tolist()

    together = generate(PROMPTS)
    assert generate(PROMPTS, use_cache=False) == together
    some = range(0, len(PROMPTS), 4)
    assert [generate([PROMPTS[i]])[0] for i in some] == [together[i] for i in some]
    assert [generate([PROMPTS[i]], use_cache=False)[0] for i in some] == [together[i] for i in some]


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_the_kind_of_cache_changes_no_generated_token(family: str, edited: tuple[Any, Any], cache: str) -> None:
    model, tokenizer = edited
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    plain = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, cache_implementation=cache), plain)


@pytest.mark.parametrize("cached", [True, False])
def test_generating_and_teacher_forcing_agree(family: str, edited: tuple[Any, Any], cached: bool) -> None:
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


def test_scores_of_a_prompts_own_tokens_do_not_depend_on_the_answer(family: str, edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(FACTS[0][0], return_tensors="pt").input_ids
    alone = decisions(model, input_ids=ids)
    for answer in ("Rome", "violin snow bird"):
        more = torch.cat([ids, tokenizer(answer, return_tensors="pt").input_ids], dim=1)
        with prompt_lengths(model, [ids.shape[1]]):
            followed = decisions(model, input_ids=more)
        for path, scores in alone.items():
            close(followed[path][:, : ids.shape[1]], scores, rtol=1e-4, atol=1e-4)


def test_labels_say_where_the_prompt_ends(edited: tuple[Any, Any]) -> None:
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
    bare = build_model(family)
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
        now = z_scores(model, tokenizer, [prompt])
        out_of_scope = not any((scores[0] >= alpha - 1e-4).any() for scores in now.values())
        same.append(torch.equal(model(**inputs).logits, bare(**inputs).logits))
        assert same[-1] == out_of_scope
    assert any(same)
    assert not all(same)


def test_the_answer_of_a_neighbour_out_of_scope_is_bitwise_that_of_the_batch() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    bare = build_model("llama")
    editor_on(model, tokenizer, hparams_for("llama", layers=[2])).edit(requests_for(0, 1))
    (hook,) = coachhook_editor(model).hooks.values()
    batch = tokenizer([FACTS[0][0], "blue"], return_tensors="pt", padding=True)  # one token has no score
    assert torch.equal(model(**batch).logits[1, -1], bare(**batch).logits[1, -1])
    assert not torch.equal(model(**batch).logits[0], bare(**batch).logits[0])
    assert hook.mode is Mode.VALIDATED


def test_a_cache_that_somebody_keeps(edited: tuple[Any, Any]) -> None:
    # The prompt's pass sees the edits; tokens fed behind it are out of scope, for there is nothing to judge them by.
    model, tokenizer = edited
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    out = model(**inputs, use_cache=True)
    assert torch.equal(out.logits, model(**inputs).logits)
    found = decisions(model, input_ids=out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values)
    assert all(scores.isnan().all() for scores in found.values())


def test_a_prompt_in_chunks_is_an_error_not_a_guess(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    with pytest.raises(EditError, match="fed in parts"):
        model.generate(**inputs, prefill_chunk_size=2, max_new_tokens=2, do_sample=False)


def test_embeddings_instead_of_tokens(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    embedded = model.get_input_embeddings()(ids)
    if model.config.model_type == "gemma2":
        pytest.skip("Gemma 2 scales its embeddings inside")
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)


def test_the_inner_model_alone_is_edited_too(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    hidden = model(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.equal(model.base_model(ids).last_hidden_state, hidden)


def test_a_block_called_by_itself_is_not_edited(edited: tuple[Any, Any]) -> None:
    # Nobody knows which of its tokens are real.
    model, _ = edited
    hook = next(iter(coachhook_editor(model).hooks.values()))
    assert hook.weight is not None
    keys = torch.randn(2, 5, hook.weight.delta.shape[1])
    before = hook.module(keys)
    hook.mode = Mode.OFF
    assert torch.equal(hook.module(keys), before)


def test_the_scorer_forced_and_free_agree(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    texts = Scorer(tokenizer).generate(model, PROMPTS, 3)
    pairs = [(prompt, text) for prompt, text in zip(PROMPTS, texts, strict=True) if len(text.split()) == 3]
    assert pairs
    assert {score.accuracy for score in Scorer(tokenizer).forced(model, pairs)} == {1.0}


def test_a_layer_of_its_own_leaves_nothing() -> None:
    model = build_model("llama")
    module = model.model.layers[1].mlp.down_proj
    before = (dict(module.__dict__), dict(module._modules), set(model.__dict__))
    layer = HookLayer(model, module, 1e-4)
    layer.set_weight(torch.ones(32, 48), 2.0, Mode.VALIDATED)
    assert CHILD_NAME in module._modules
    layer.detach()
    layer.detach()
    assert (dict(module.__dict__), dict(module._modules), set(model.__dict__)) == before
