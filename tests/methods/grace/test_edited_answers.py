"""The edited model's answers, on every family: edits are learned, other prompts keep their logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.prompt_edits import EDITS, PROMPTS, TARGETS, UNRELATED_PROMPTS, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer, state_of


@pytest.fixture
def edited(family: str) -> tuple[Any, Any]:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    return model, tokenizer


def test_every_edit_is_learned_and_answered_after_all_edits(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert [result.learned for result in rollback.results] == [True] * len(EDITS)
    scores = Scorer(tokenizer).forced(model, list(zip(PROMPTS, TARGETS, strict=True)))
    assert [score.accuracy for score in scores] == [1.0] * len(EDITS)
    texts = Scorer(tokenizer).generate(model, PROMPTS, 1)
    assert texts == TARGETS


def test_unrelated_prompts_keep_their_logits_bitwise(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    inputs = [tokenizer(text, return_tensors="pt") for text in UNRELATED_PROMPTS]
    before = [model(**row).logits for row in inputs]
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert all(torch.equal(model(**row).logits, logits) for row, logits in zip(inputs, before, strict=True))


def test_editing_changes_no_weight_and_leaves_no_gradient(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    state = state_of(model)
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_do_not_depend_on_padding_and_batch(family: str, side: str, replacement: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, replacement=replacement, n_iter=8))
    tokenizer.padding_side = side
    prompts = [*PROMPTS, *UNRELATED_PROMPTS]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    # Absolute positions have to skip left padding; generate() does the same.
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    batched = model(**batch, position_ids=positions).logits
    for row, prompt in enumerate(prompts):
        single = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        torch.testing.assert_close(batched[row][batch["attention_mask"][row].bool()], single, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_does_not_depend_on_batch_padding_and_cache(family: str, replacement: str, beams: int) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, replacement=replacement, n_iter=8))
    prompts = [*PROMPTS, *UNRELATED_PROMPTS] * 2  # 16 rows

    def generate(rows: list[str], **options: Any) -> list[list[int]]:
        batch = tokenizer(rows, return_tensors="pt", padding=True)
        output = model.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=beams, **options
        )
        return output[:, -4:].tolist()

    batched = generate(prompts)
    assert generate(prompts, use_cache=False) == batched
    assert [generate([prompt])[0] for prompt in prompts[:8]] == batched[:8]
    assert [generate([prompt], use_cache=False)[0] for prompt in prompts[:8]] == batched[:8]


def test_an_edit_answers_at_the_end_of_its_prompt_only(family: str, edited: tuple[Any, Any]) -> None:
    """EasyEdit's GRACE looks up the wrong token in prompts that are not as long as the edited one."""
    model, tokenizer = edited
    for edit in EDITS:
        ids = tokenizer(edit["prompt"], return_tensors="pt")["input_ids"]
        answer = tokenizer(edit["target_new"])["input_ids"][0]
        assert int(model(input_ids=ids).logits[0, -1].argmax()) == answer
        # A longer prompt that begins with the edited one is another prompt.
        longer = torch.cat([ids, tokenizer("and the blue sea", return_tensors="pt")["input_ids"]], dim=1)
        unedited = build_model(family)
        with prompt_lengths(model, [longer.shape[1]]):
            assert torch.equal(model(input_ids=longer).logits, unedited(input_ids=longer).logits)


def test_labels_tell_where_the_prompt_ends(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    prompt, answer = (tokenizer(EDITS[0][k], return_tensors="pt")["input_ids"] for k in ("prompt", "target_new"))
    ids = torch.cat([prompt, answer], dim=1)
    labels = ids.clone()
    labels[:, : prompt.shape[1]] = -100
    assert int(model(input_ids=ids, labels=labels).logits[0, -2].argmax()) == int(answer)
    labels[:, prompt.shape[1] - 1] = 0  # a shorter prompt, which no edit is about
    assert int(model(input_ids=ids, labels=labels).logits[0, -2].argmax()) != int(answer)


def test_equal_seeds_give_equal_values_and_other_seeds_give_others(family: str) -> None:
    codebooks = []
    for _ in range(2):
        model, tokenizer = build_model(family), build_tokenizer()
        torch.rand(3)  # the global generator must not matter
        apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, seed=7))
        codebooks.append(GraceEditor.on(model, tokenizer, hparams_for(family)).codebook)
    assert torch.equal(codebooks[0].values, codebooks[1].values)
    reseeded, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(reseeded, tokenizer, EDITS, hparams_for(family, seed=8))
    assert not torch.equal(
        GraceEditor.on(reseeded, tokenizer, hparams_for(family)).codebook.values, codebooks[0].values
    )


def test_partial_passes_train_the_same_values_as_full_passes(family: str) -> None:
    values = []
    for partial in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        editor = GraceEditor.on(model, tokenizer, hparams_for(family, n_iter=15, reg=None, edit_lr=0.1))
        if not partial:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, EDITS, editor.hparams)
        assert editor.replay_support[0] is partial
        assert editor.codebook is not None
        values.append(editor.codebook.values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-2, atol=1e-2)


def test_correcting_a_prompt_repeatedly_keeps_one_key() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    prompt = PROMPTS[0]
    for target in ("Rome", "Berlin", "London"):
        _, rollback = apply_grace_to_model(model, tokenizer, [{"prompt": prompt, "target_new": target}], hparams)
        assert Scorer(tokenizer).generate(model, [prompt], 1) == [target]
    assert rollback.results[0].detail["n_keys"] == 1


@pytest.mark.parametrize(
    "options",
    [{"val_init": "warm"}, {"val_train": "adv", "num_pert": 3}, {"dist_fn": "cos", "eps": 0.01}, {"dropout": 0.1}],
)
def test_edits_are_learned_with_other_training_options(options: dict[str, Any]) -> None:
    model, tokenizer = build_model("gpt2"), build_tokenizer()
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("gpt2", **options))
    assert all(result.learned for result in rollback.results)
    assert Scorer(tokenizer).generate(model, PROMPTS[:2], 1) == ["Rome", "Peru"]
    assert not any(module.training for module in model.modules())


def test_early_stop_saves_steps_and_can_be_switched_off() -> None:
    steps = []
    for reg in ("early_stop", None):
        model, tokenizer = build_model("llama"), build_tokenizer()
        _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama", reg=reg))
        steps.append(rollback.results[0].steps)
    assert steps[0] < steps[1] == 60


def test_a_model_in_training_mode_learns_edits_and_stays_in_training_mode() -> None:
    model, tokenizer = build_model("gpt2").train(), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("gpt2"))
    assert all(module.training for module in model.modules() if type(module).__name__ != "Codebook")
    assert Scorer(tokenizer).generate(model, [PROMPTS[0]], 1) == ["Rome"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_learn_edits_with_values_in_float32(dtype: torch.dtype) -> None:
    model, tokenizer = build_model("llama", dtype), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    codebook = GraceEditor.on(model, tokenizer, hparams_for("llama")).codebook
    assert codebook is not None
    assert codebook.values.dtype == torch.float32
    assert Scorer(tokenizer).generate(model, PROMPTS[:2], 1) == ["Rome", "Peru"]


def test_an_edited_model_answers_after_a_change_of_dtype() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    moved = model.to(torch.float64)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    assert tokenizer.decode(int(moved(input_ids=ids).logits[0, -1].argmax())) == "Rome"


def test_a_warning_says_that_the_last_block_cannot_give_a_long_answer(caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[3].mlp.down_proj"], n_iter=1)
    apply_grace_to_model(model, tokenizer, [EDITS[0]], hparams)
    assert not caplog.records
    apply_grace_to_model(model, tokenizer, [{"prompt": "blue", "target_new": "green cheese"}], hparams)
    assert "last block" in caplog.text


def test_an_edit_of_a_prompts_first_words_does_not_affect_training() -> None:
    """The prompt's first two words are the prompt of an earlier edit."""
    values = []
    for earlier_edits in ([], [{"prompt": "the capital", "target_new": "moon"}]):
        model, tokenizer = build_model("llama"), build_tokenizer()
        hparams = hparams_for("llama", n_iter=10, reg=None, train_batch=1)
        apply_grace_to_model(
            model, tokenizer, [*earlier_edits, {"prompt": "the capital of", "target_new": "Rome"}], hparams
        )
        codebook = GraceEditor.on(model, tokenizer, hparams).codebook
        assert codebook is not None
        values.append(codebook.values[-1])
    assert torch.equal(values[0], values[1])


def test_dropout_neither_uses_nor_advances_the_global_random_generator() -> None:
    values, tokenizer = [], build_tokenizer()
    for dropout, seed in ((0.3, 1), (0.3, 2), (0.0, 1)):
        model, hparams = build_model("gpt2"), hparams_for("gpt2", dropout=dropout, n_iter=10, reg=None)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        apply_grace_to_model(model, tokenizer, EDITS[:1], hparams)
        assert torch.equal(torch.get_rng_state(), before)
        codebook = GraceEditor.on(model, tokenizer, hparams).codebook
        assert codebook is not None
        values.append(codebook.values)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2]), "dropout has no effect on the values"
