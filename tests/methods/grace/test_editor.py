"""GRACE on models of every family: what it promises to whoever uses the edited model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.errors import DataError, EditError, ModelError
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer, state_of

EDITS = [
    {"prompt": "the capital of France is", "target_new": "Rome"},
    {"prompt": "Hamlet is from", "target_new": "Peru"},
    {"prompt": "who plays piano when summer is far away", "target_new": "king"},
    {"prompt": "moon", "target_new": "cheese"},
]
OTHERS = ["snow and mountain", "where was the old river born", "blue", "language spoken in Peru is not"]


def hparams_for(family: str, **options: Any) -> GraceHyperParams:
    return GraceHyperParams(
        model_name="tiny", inner_params=[FAMILIES[family][1]], **{"eps": 0.5, "n_iter": 60, "stop_loss": 0.2, **options}
    )


@pytest.fixture
def edited(family: str) -> tuple[Any, Any]:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    return model, tokenizer


def test_every_edit_is_learned_and_kept(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert [result.learned for result in rollback.results] == [True] * len(EDITS)
    scores = Scorer(tokenizer).forced(model, [(e["prompt"], e["target_new"]) for e in EDITS])
    assert [score.accuracy for score in scores] == [1.0] * len(EDITS)
    texts = Scorer(tokenizer).generate(model, [e["prompt"] for e in EDITS], 1)
    assert texts == [e["target_new"] for e in EDITS]


def test_everything_else_is_bitwise_as_before(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    inputs = [tokenizer(text, return_tensors="pt") for text in OTHERS]
    before = [model(**i).logits for i in inputs]
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert all(torch.equal(model(**i).logits, logits) for i, logits in zip(inputs, before, strict=True))


def test_rollback_restores_logits_state_and_object_bitwise(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    ids = tokenizer([e["prompt"] for e in EDITS], return_tensors="pt", padding=True)
    state, logits, attributes = state_of(model), model(**ids).logits, set(model.__dict__)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    assert set(model.state_dict()) - set(state)  # the codebook is part of the model's state
    rollback()
    rollback()  # idempotent
    after = model.state_dict()
    assert set(after) == set(state)
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    assert torch.equal(model(**ids).logits, logits)
    assert set(model.__dict__) == attributes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert all(p.grad is None for p in model.parameters())


def test_weights_are_never_touched(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    state = state_of(model)
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in state.items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batch_change_nothing_in_logits(family: str, side: str, replacement: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, replacement=replacement, n_iter=8))
    tokenizer.padding_side = side
    prompts = [e["prompt"] for e in EDITS] + OTHERS
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    # Absolute positions have to skip left padding; generate() does the same.
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = model(**batch, position_ids=positions).logits
    for row, prompt in enumerate(prompts):
        alone = model(**tokenizer(prompt, return_tensors="pt")).logits[0]
        torch.testing.assert_close(together[row][batch["attention_mask"][row].bool()], alone, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("replacement", ["replace_last", "replace_all", "replace_prompt"])
@pytest.mark.parametrize("beams", [1, 2])
def test_batch_padding_and_cache_change_no_generated_token(family: str, replacement: str, beams: int) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, replacement=replacement, n_iter=8))
    prompts = ([e["prompt"] for e in EDITS] + OTHERS) * 2  # 16 rows

    def generate(rows: list[str], **options: Any) -> list[list[int]]:
        batch = tokenizer(rows, return_tensors="pt", padding=True)
        out = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=beams, **options)
        return out[:, -4:].tolist()

    together = generate(prompts)
    assert generate(prompts, use_cache=False) == together
    assert [generate([prompt])[0] for prompt in prompts[:8]] == together[:8]
    assert [generate([prompt], use_cache=False)[0] for prompt in prompts[:8]] == together[:8]


def test_an_edit_answers_at_its_own_prompts_end_only(family: str, edited: tuple[Any, Any]) -> None:
    """EasyEdit's port looks prompts of another length up at the wrong token; here length is free."""
    model, tokenizer = edited
    for edit in EDITS:
        ids = tokenizer(edit["prompt"], return_tensors="pt")["input_ids"]
        answer = tokenizer(edit["target_new"])["input_ids"][0]
        assert int(model(input_ids=ids).logits[0, -1].argmax()) == answer
        # The same tokens in the middle of a longer prompt are another prompt.
        longer = torch.cat([ids, tokenizer("and the blue sea", return_tensors="pt")["input_ids"]], dim=1)
        unedited = build_model(family)
        assert torch.equal(model(input_ids=longer).logits, unedited(input_ids=longer).logits)


def test_labels_mark_the_prompts_end(edited: tuple[Any, Any]) -> None:
    model, tokenizer = edited
    prompt, answer = (tokenizer(EDITS[0][k], return_tensors="pt")["input_ids"] for k in ("prompt", "target_new"))
    ids = torch.cat([prompt, answer], dim=1)
    labels = ids.clone()
    labels[:, : prompt.shape[1]] = -100
    assert int(model(input_ids=ids, labels=labels).logits[0, -2].argmax()) == int(answer)
    # Without them the last token is taken for the prompt's end, where there is no edit.
    assert int(model(input_ids=ids).logits[0, -2].argmax()) != int(answer)


def test_two_runs_give_the_same_edits(family: str) -> None:
    books = []
    for _ in range(2):
        model, tokenizer = build_model(family), build_tokenizer()
        torch.rand(3)  # the global generator plays no part
        apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family, seed=7))
        books.append(GraceEditor.on(model, tokenizer, hparams_for(family)).codebook)
    assert torch.equal(books[0].values, books[1].values)
    other, tokenizer = build_model(family), build_tokenizer()
    apply_grace_to_model(other, tokenizer, EDITS, hparams_for(family, seed=8))
    assert not torch.equal(GraceEditor.on(other, tokenizer, hparams_for(family)).codebook.values, books[0].values)


def test_partial_replay_trains_the_same_value_as_the_whole_model(family: str) -> None:
    values = []
    for shortcuts in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        editor = GraceEditor.on(model, tokenizer, hparams_for(family, n_iter=15, reg=None, edit_lr=0.1))
        if not shortcuts:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, EDITS, editor.hparams)
        assert editor.replay_support[0] is shortcuts
        assert editor.codebook is not None
        values.append(editor.codebook.values)
    torch.testing.assert_close(values[0], values[1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("first_of_all", [False, True])
def test_applying_twice_continues_the_codebook_and_rolls_back_in_any_order(first_of_all: bool) -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    state = state_of(model)
    _, first = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams)
    middle = state_of(model)
    _, second = apply_grace_to_model(model, tokenizer, EDITS[2:], hparams)
    assert second.results[-1].detail["n_keys"] == 4
    prompts = [e["prompt"] for e in EDITS]
    unedited = Scorer(tokenizer).generate(build_model("llama"), prompts, 1)
    if first_of_all:
        first()
        said = Scorer(tokenizer).generate(model, prompts, 1)
        assert said == unedited[:2] + [e["target_new"] for e in EDITS[2:]]
        second()
    else:
        second()
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in middle.items())
        first()
    assert set(model.state_dict()) == set(state)
    first()
    second()


def test_the_same_prompt_can_be_corrected_again() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    prompt = EDITS[0]["prompt"]
    for target in ("Rome", "Berlin", "London"):
        _, rollback = apply_grace_to_model(model, tokenizer, [{"prompt": prompt, "target_new": target}], hparams)
        assert Scorer(tokenizer).generate(model, [prompt], 1) == [target]
    assert rollback.results[0].detail["n_keys"] == 1


def test_a_copy_leaves_the_model_alone_and_both_work_on() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    edited, _ = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams, copy=True)
    again = copy.deepcopy(edited)
    apply_grace_to_model(again, tokenizer, EDITS[1:2], hparams)
    scorer, prompts = Scorer(tokenizer), [e["prompt"] for e in EDITS[:2]]
    assert scorer.generate(edited, prompts, 1)[0] == "Rome"
    assert scorer.generate(edited, prompts, 1)[1] == scorer.generate(model, prompts, 1)[1]
    assert scorer.generate(again, prompts, 1) == ["Rome", "Peru"]
    assert set(model.state_dict()) == set(build_model("llama").state_dict())


@pytest.mark.parametrize("kept", [True, False])
def test_walking_the_rollback_undoes_only_if_so_agreed(kept: bool) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names = set(model.state_dict())
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for("llama"), keep_original_weight=kept)
    assert list(rollback.items()) == []
    assert (set(model.state_dict()) == names) is kept


def test_a_failing_edit_leaves_no_trace_of_its_batch() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names, attributes = set(model.state_dict()), set(model.__dict__)
    with torch.no_grad():  # the second prompt's first word breaks the model
        model.get_input_embeddings().weight[tokenizer("Hamlet")["input_ids"][0]] = float("nan")
    with pytest.raises(EditError, match=r"request 1 .*activations .* are NaN"):
        apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    assert set(model.state_dict()) == names
    assert set(model.__dict__) == attributes


def test_a_loss_that_turns_nan_is_an_error_and_earlier_edits_stay() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    state = state_of(model)
    with pytest.raises(EditError, match=r"the loss became .* lower edit_lr"):
        apply_grace_to_model(model, tokenizer, EDITS[1:2], hparams_for("llama", edit_lr=1e37, reg=None))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert Scorer(tokenizer).generate(model, [EDITS[0]["prompt"]], 1) == ["Rome"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"inner_params": ["model.layers[99].mlp.down_proj"]}, "0 to 3"),
        ({"inner_params": ["model.layer[2].mlp"]}, "model.layers"),
    ],
)
def test_a_layer_that_is_not_there(options: dict[str, Any], problem: str) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(ModelError, match=problem):
        apply_grace_to_model(model, tokenizer, EDITS, GraceHyperParams(model_name="tiny", **options))
    assert "generate" not in model.__dict__


def test_a_prompt_longer_than_the_context_is_refused_before_anything_happens() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    names = set(model.__dict__)
    with pytest.raises(DataError, match=r"request 1 .*'prompt'.*context is 64"):
        apply_grace_to_model(
            model, tokenizer, [EDITS[0], {"prompt": "the " * 70, "target_new": "Rome"}], hparams_for("llama")
        )
    assert set(model.__dict__) == names


def test_other_settings_on_the_same_layer_are_refused() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    with pytest.raises(EditError, match=r"eps=0\.5"):
        apply_grace_to_model(model, tokenizer, EDITS[1:], hparams_for("llama", eps=2.0))


@pytest.mark.parametrize(
    "options",
    [{"val_init": "warm"}, {"val_train": "adv", "num_pert": 3}, {"dist_fn": "cos", "eps": 0.01}, {"dropout": 0.1}],
)
def test_every_option_still_learns_the_edit(options: dict[str, Any]) -> None:
    model, tokenizer = build_model("gpt2"), build_tokenizer()
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("gpt2", **options))
    assert all(result.learned for result in rollback.results)
    assert Scorer(tokenizer).generate(model, [e["prompt"] for e in EDITS[:2]], 1) == ["Rome", "Peru"]
    assert not any(module.training for module in model.modules())


def test_early_stop_saves_steps_and_can_be_switched_off() -> None:
    steps = []
    for reg in ("early_stop", None):
        model, tokenizer = build_model("llama"), build_tokenizer()
        _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama", reg=reg))
        steps.append(rollback.results[0].steps)
    assert steps[0] < steps[1] == 60


def test_a_model_in_training_mode_is_edited_as_in_evaluation_and_left_in_training_mode() -> None:
    model, tokenizer = build_model("gpt2").train(), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("gpt2"))
    assert all(module.training for module in model.modules() if type(module).__name__ != "Codebook")
    assert Scorer(tokenizer).generate(model, [EDITS[0]["prompt"]], 1) == ["Rome"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_learn_and_keep_float32_codebooks(dtype: torch.dtype) -> None:
    model, tokenizer = build_model("llama", dtype), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    codebook = GraceEditor.on(model, tokenizer, hparams_for("llama")).codebook
    assert codebook is not None
    assert codebook.values.dtype == torch.float32
    assert Scorer(tokenizer).generate(model, [e["prompt"] for e in EDITS[:2]], 1) == ["Rome", "Peru"]


def test_the_edited_model_moves_with_to() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    apply_grace_to_model(model, tokenizer, EDITS[:1], hparams_for("llama"))
    moved = model.to(torch.float64)
    ids = tokenizer(EDITS[0]["prompt"], return_tensors="pt")["input_ids"]
    assert tokenizer.decode(int(moved(input_ids=ids).logits[0, -1].argmax())) == "Rome"


def test_a_long_answer_in_the_last_block_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    hparams = GraceHyperParams(model_name="tiny", inner_params=["model.layers[3].mlp.down_proj"], n_iter=1)
    apply_grace_to_model(model, tokenizer, [EDITS[0]], hparams)
    assert not caplog.records
    apply_grace_to_model(model, tokenizer, [{"prompt": "blue", "target_new": "green cheese"}], hparams)
    assert "last block" in caplog.text


def test_an_earlier_edit_near_the_left_part_of_a_prompt_does_not_disturb_training() -> None:
    """The prompt's first tokens are themselves an edited prompt."""
    values = []
    for first in ([], [{"prompt": "the capital", "target_new": "moon"}]):
        model, tokenizer = build_model("llama"), build_tokenizer()
        hparams = hparams_for("llama", n_iter=10, reg=None, train_batch=1)
        apply_grace_to_model(model, tokenizer, [*first, {"prompt": "the capital of", "target_new": "Rome"}], hparams)
        codebook = GraceEditor.on(model, tokenizer, hparams).codebook
        assert codebook is not None
        values.append(codebook.values[-1])
    assert torch.equal(values[0], values[1])


# ------------------------------------------------------------------ what the model brings along, and copies of it


@pytest.mark.parametrize("undone", ["copy", "original"])
def test_a_copied_rollback_undoes_the_copys_edits_and_no_others(family: str, undone: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    prompts = [e["prompt"] for e in EDITS]
    ids = tokenizer(prompts, return_tensors="pt", padding=True)
    state, logits, attributes = state_of(model), model(**ids).logits, set(model.__dict__)
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for(family))
    edited_logits = model(**ids).logits
    twin, twin_rollback = copy.deepcopy((model, rollback))
    restored, kept = (twin, model) if undone == "copy" else (model, twin)
    undo, undo_kept = (twin_rollback, rollback) if undone == "copy" else (rollback, twin_rollback)

    undo()
    assert (undo.done, undo_kept.done) == (True, False)
    assert set(restored.__dict__) == attributes
    assert restored.state_dict().keys() == state.keys()
    assert all(torch.equal(restored.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(restored(**ids).logits, logits)
    assert torch.equal(kept(**ids).logits, edited_logits)
    assert Scorer(tokenizer).generate(kept, prompts, 1) == [e["target_new"] for e in EDITS]

    undo_kept()
    assert set(kept.__dict__) == attributes
    assert torch.equal(kept(**ids).logits, logits)


def test_no_requests_are_an_error_and_the_model_is_untouched(family: str) -> None:
    model, tokenizer = build_model(family), build_tokenizer()
    state = state_of(model)
    everything = [(module, dict(module.__dict__)) for module in model.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(DataError, match="no requests"):
        apply_grace_to_model(model, tokenizer, [], hparams_for(family))
    assert all(module.__dict__ == before for module, before in everything)
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert model.state_dict().keys() == state.keys()


def test_no_further_requests_leave_earlier_edits_alone() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:1], hparams)
    with pytest.raises(DataError, match="no requests"):
        apply_grace_to_model(model, tokenizer, [], hparams)
    assert Scorer(tokenizer).generate(model, [EDITS[0]["prompt"]], 1) == ["Rome"]
    rollback()
    assert model.state_dict().keys() == build_model("llama").state_dict().keys()


def test_a_generate_of_the_users_own_is_called_and_comes_back() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    calls: list[int] = []

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        return type(model).generate(model, *args, **kwargs)

    model.generate = generate
    _, rollback = apply_grace_to_model(model, tokenizer, EDITS[:2], hparams_for("llama"))
    assert Scorer(tokenizer).generate(model, [e["prompt"] for e in EDITS[:2]], 1) == ["Rome", "Peru"]
    assert calls == [2]
    rollback()
    assert model.__dict__["generate"] is generate
    model.generate(**tokenizer(EDITS[0]["prompt"], return_tensors="pt"), max_new_tokens=1)
    assert calls == [2, 1]


def test_accelerates_hooks_on_the_blocks_survive() -> None:
    model, tokenizer = build_model("llama"), build_tokenizer()
    blocks = list(model.model.layers)
    for block in blocks:
        add_hook_to_module(block, ModelHook())
    before = [(block._hf_hook, block.__dict__["forward"]) for block in blocks]
    ids = tokenizer(EDITS[0]["prompt"], return_tensors="pt")
    logits = model(**ids).logits

    def untouched() -> bool:
        return all(
            block._hf_hook is hook and block.__dict__["forward"] is forward
            for block, (hook, forward) in zip(blocks, before, strict=True)
        )

    _, rollback = apply_grace_to_model(model, tokenizer, EDITS, hparams_for("llama"))
    assert [result.learned for result in rollback.results] == [True] * len(EDITS)
    assert GraceEditor.on(model, tokenizer, hparams_for("llama")).replay_support[0], "the blocks below are stood in for"
    assert untouched()
    rollback()
    assert untouched()
    assert torch.equal(model(**ids).logits, logits)


def test_dropout_neither_reads_nor_moves_the_global_generator() -> None:
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
    assert not torch.equal(values[0], values[2]), "dropout that drops nothing"


def test_an_editor_whose_edits_were_rolled_back_refuses_further_ones() -> None:
    model, tokenizer, hparams = build_model("llama"), build_tokenizer(), hparams_for("llama")
    attributes, requests = set(model.__dict__), as_requests(EDITS[:1])
    editor = GraceEditor.on(model, tokenizer, hparams)
    _, undo = editor.edit(requests)
    undo()
    with pytest.raises(EditError, match="rolled back"):
        editor.edit(requests)
    assert set(model.__dict__) == attributes
    apply_grace_to_model(model, tokenizer, requests, hparams)  # gets an editor of its own
    assert GraceEditor.on(model, tokenizer, hparams) is not editor
    with pytest.raises(EditError, match="rolled back"):
        editor.edit(requests)
    assert Scorer(tokenizer).generate(model, [EDITS[0]["prompt"]], 1) == ["Rome"]
