"""How far α falls at a batch: by scores in the unedited model, as in the authors' code, or in the edited model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from easyedit_lifelong.methods.coachhook import alphas
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from tests.support.coachhook_edits import FACTS, editor_on, hparams_for, requests_for
from tests.support.tiny_models import FAMILIES, build_model

PROMPTS = [prompt for prompt, _, _ in FACTS]


def highest_scores(model: Any, tokenizer: Any) -> dict[str, list[float]]:
    """Return each hook layer's highest score in every prompt."""
    scores_by_layer = z_scores(model, tokenizer, PROMPTS)
    return {path: [float(scores.max()) for scores in of_prompts] for path, of_prompts in scores_by_layer.items()}


@pytest.mark.parametrize("score", ["z", "weighed"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_the_edited_model_alpha_falls_to_the_batchs_smallest_highest_score(
    family: str, score: str, tokenizer: Any
) -> None:
    model = build_model(family)
    editor = editor_on(model, tokenizer, hparams_for(family, alpha_model="edited", batch_size=4, scope_score=score))
    editor.edit(requests_for())
    for path, scores in highest_scores(model, tokenizer).items():
        expected = min(2.2, *scores)
        assert editor.alphas[path] == pytest.approx(expected, abs=1e-3)
        assert all(score >= editor.alphas[path] - editor.hooks[path].tolerance for score in scores)


@pytest.mark.parametrize("score", ["z", "weighed"])
def test_with_one_layer_alpha_is_the_same_in_both_models(score: str, tokenizer: Any) -> None:
    alphas_in = {}
    for alpha_model in ("unedited", "edited"):
        model = build_model("llama")
        options = {"layers": [1], "alpha_model": alpha_model, "batch_size": 4, "scope_score": score}
        editor = editor_on(model, tokenizer, hparams_for("llama", **options))
        editor.edit(requests_for())
        alphas_in[alpha_model] = list(editor.alphas.values())
    assert alphas_in["unedited"] == pytest.approx(alphas_in["edited"], abs=1e-4)


def test_with_several_layers_alpha_differs_above_the_first_layer(tokenizer: Any) -> None:
    alphas_in = {}
    for alpha_model in ("unedited", "edited"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", alpha_model=alpha_model, batch_size=4))
        editor.edit(requests_for())
        alphas_in[alpha_model] = list(editor.alphas.values())
    unedited, edited = alphas_in["unedited"], alphas_in["edited"]
    assert unedited[0] == pytest.approx(edited[0], abs=1e-4), "no edit changes the input of the first layer"
    assert unedited[2] != pytest.approx(edited[2], abs=1e-3)


def test_alpha_never_rises(tokenizer: Any) -> None:
    model = build_model("qwen2")
    editor = editor_on(model, tokenizer, hparams_for("qwen2", alpha_model="edited", batch_size=1))
    before = dict(editor.alphas)
    for request in requests_for():
        editor.edit([request])
        assert all(editor.alphas[path] <= before[path] for path in before)
        before = dict(editor.alphas)
    assert min(before.values()) < 2.2


KEEP_ALL = {"alpha_model": "edited", "alpha_prompts": "all", "z_tokens": "others", "alpha_z": 50.0, "batch_size": 1}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_with_alpha_prompts_all_every_earlier_edit_stays_in_scope(
    family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alphas, "_MAX_TOKENS", 6)  # several groups; α lowered for one changes others' keys
    model = build_model(family)
    editor = editor_on(model, tokenizer, hparams_for(family, **KEEP_ALL))
    for request in requests_for():
        before = dict(editor.alphas)
        editor.edit([request])
        assert all(editor.alphas[path] <= before[path] for path in before)
    for path, scores in highest_scores(model, tokenizer).items():
        assert min(scores) >= float(editor.hooks[path].threshold(model.dtype)) - 1e-3


def test_with_alpha_prompts_batch_as_in_the_paper_earlier_edits_leave_the_scope(tokenizer: Any) -> None:
    all_in_scope = {}
    for alpha_prompts in ("batch", "all"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", **{**KEEP_ALL, "alpha_prompts": alpha_prompts}))
        for request in requests_for():
            editor.edit([request])
        all_in_scope[alpha_prompts] = all(
            min(scores) >= editor.alphas[path] - 1e-3 for path, scores in highest_scores(model, tokenizer).items()
        )
    assert all_in_scope == {"batch": False, "all": True}


def test_an_edit_whose_scores_are_below_alpha_floor_lowers_alpha_in_no_layer(tokenizer: Any) -> None:
    for floor in (0.0, 1e9):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", **{**KEEP_ALL, "alpha_floor": floor}))
        for request in requests_for():
            editor.edit([request])
        assert all((alpha == 50) == (floor > 0) for alpha in editor.alphas.values())


def test_a_prompt_below_alpha_floor_does_not_change_the_alpha_of_the_others(tokenizer: Any) -> None:
    def edit_with_floor(floor: float, *numbers: int) -> tuple[dict[str, float], dict[str, list[float]]]:
        model = build_model("llama")
        options = {**KEEP_ALL, "batch_size": 4, "alpha_floor": floor}
        editor = editor_on(model, tokenizer, hparams_for("llama", **options))
        editor.edit(requests_for(*numbers))
        return editor.alphas, highest_scores(model, tokenizer)

    _, scores_by_layer = edit_with_floor(1e9)
    lowest = sorted(min(scores[number] for scores in scores_by_layer.values()) for number in range(len(PROMPTS)))
    floor = (lowest[0] + lowest[1]) / 2
    alpha_by_layer, scores_by_layer = edit_with_floor(floor)
    weakest = min(range(len(PROMPTS)), key=lambda number: min(scores[number] for scores in scores_by_layer.values()))
    for path, scores in scores_by_layer.items():
        others = [score for number, score in enumerate(scores) if number != weakest]
        assert alpha_by_layer[path] == pytest.approx(min(*others, 50.0), rel=1e-3)


def test_an_earlier_prompt_without_z_scores_does_not_lower_alpha_to_zero(tokenizer: Any) -> None:
    model = build_model("llama")
    editor = editor_on(model, tokenizer, hparams_for("llama", **KEEP_ALL))
    editor.edit(requests_for(0))
    batch = editor.state.batches[0]
    editor.state.batches[0] = dataclasses.replace(batch, prompts=((5, 5),))  # two tokens have no leave-one-out z-score
    before = min(editor.alphas.values())
    editor.edit(requests_for(1))
    assert 0 < min(editor.alphas.values()) <= before


def test_earlier_prompts_are_checked_round_robin() -> None:
    prompts = [(number,) for number in range(50)]
    assert alphas.round_robin(prompts, None, 3) == prompts == alphas.round_robin(prompts, 50, 3)
    assert alphas.round_robin(prompts, 0, 3) == []
    checked: set[tuple[int, ...]] = set()
    for turn in range(12):
        chosen = [tuple(prompt) for prompt in alphas.round_robin(prompts, 10, turn)]
        assert len(set(chosen)) == 10
        checked.update(chosen)
    assert checked == set(prompts)


def test_at_most_alpha_checked_earlier_prompts_are_checked(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_counts: list[int] = []
    keep_in_scope = alphas.keep_in_scope

    def counting(runner: Any, hooks: Any, before: Any, lowered: Any, prompts: Any, *rest: Any) -> Any:
        prompt_counts.append(len(prompts))
        return keep_in_scope(runner, hooks, before, lowered, prompts, *rest)

    monkeypatch.setattr("easyedit_lifelong.methods.coachhook.editor.keep_in_scope", counting)
    for alpha_checked, expected in ((None, [1, 2, 3, 4]), (2, [1, 2, 3, 3]), (0, [1, 1, 1, 1])):
        prompt_counts.clear()
        editor = editor_on(
            build_model("llama"), tokenizer, hparams_for("llama", **KEEP_ALL, alpha_checked=alpha_checked)
        )
        for request in requests_for():
            editor.edit([request])
        assert prompt_counts == expected


def test_a_group_of_prompts_is_not_run_again_when_no_alpha_changed_since(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pass_counts, lowered_alpha = [], []
    keep_in_scope = alphas.keep_in_scope

    def counting(runner: Any, hooks: Any, before: Any, lowered: Any, *rest: Any) -> Any:
        call, count = runner.call, 0

        def counted(*args: Any) -> Any:
            nonlocal count
            count += 1
            return call(*args)

        with monkeypatch.context() as patched:
            patched.setattr(runner, "call", counted)
            result = keep_in_scope(runner, hooks, before, lowered, *rest)
        pass_counts.append(count)
        lowered_alpha.append(result[0] != dict(lowered))
        return result

    monkeypatch.setattr("easyedit_lifelong.methods.coachhook.editor.keep_in_scope", counting)
    editor = editor_on(build_model("llama"), tokenizer, hparams_for("llama", **KEEP_ALL))
    for request in requests_for():
        editor.edit([request])
    assert any(lowered_alpha)
    assert pass_counts == [1, 1, 1, 1], "all prompts are one group, whose own pass lowered α"
