"""Where α falls to: in the unedited model, as the authors' code has it, or in the edited one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from easyedit_lifelong.methods.coachhook import alphas
from easyedit_lifelong.methods.coachhook.z_scores import z_scores
from tests.support.coachhook_edits import FACTS, editor_on, hparams_for, requests_for
from tests.support.tiny_models import FAMILIES, build_model

BATCH = [prompt for prompt, _, _ in FACTS]


def highest(model: Any, tokenizer: Any) -> dict[str, list[float]]:
    """Each layer's highest z-score in every prompt, in the model as it is."""
    return {path: [float(z.max()) for z in scores] for path, scores in z_scores(model, tokenizer, BATCH).items()}


@pytest.mark.parametrize("score", ["z", "weighed"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_the_edited_model_alpha_is_what_the_batch_will_be_decided_by(
    family: str, score: str, tokenizer: Any
) -> None:
    model = build_model(family)
    editor = editor_on(model, tokenizer, hparams_for(family, alpha_model="edited", batch_size=4, scope_score=score))
    editor.edit(requests_for())
    for path, scores in highest(model, tokenizer).items():
        expected = min(2.2, *scores)
        assert editor.alphas[path] == pytest.approx(expected, abs=1e-3)
        assert all(score >= editor.alphas[path] - editor.hooks[path].tolerance for score in scores)


@pytest.mark.parametrize("score", ["z", "weighed"])
def test_with_one_layer_both_are_the_same(score: str, tokenizer: Any) -> None:
    found = []
    for choice in ("unedited", "edited"):
        model = build_model("llama")
        options = {"layers": [1], "alpha_model": choice, "batch_size": 4, "scope_score": score}
        editor = editor_on(model, tokenizer, hparams_for("llama", **options))
        editor.edit(requests_for())
        found.append(list(editor.alphas.values()))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_with_several_they_differ(tokenizer: Any) -> None:
    found = []
    for choice in ("unedited", "edited"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", alpha_model=choice, batch_size=4))
        editor.edit(requests_for())
        found.append(list(editor.alphas.values()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4), "nothing acts below the first layer"
    assert found[0][2] != pytest.approx(found[1][2], abs=1e-3)


def test_alpha_never_rises(tokenizer: Any) -> None:
    model = build_model("qwen2")
    editor = editor_on(model, tokenizer, hparams_for("qwen2", alpha_model="edited", batch_size=1))
    before = dict(editor.alphas)
    for request in requests_for():
        editor.edit([request])
        assert all(editor.alphas[path] <= before[path] for path in before)
        before = dict(editor.alphas)
    assert min(before.values()) < 2.2


ALL = {"alpha_model": "edited", "alpha_prompts": "all", "z_tokens": "others", "alpha_z": 50.0, "batch_size": 1}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_edit_so_far_can_be_kept_in_scope(family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alphas, "_MAX_TOKENS", 6)  # so that one group of prompts moves the keys of another
    model = build_model(family)
    editor = editor_on(model, tokenizer, hparams_for(family, **ALL))
    for request in requests_for():
        before = dict(editor.alphas)
        editor.edit([request])
        assert all(editor.alphas[path] <= before[path] for path in before)
    for path, scores in highest(model, tokenizer).items():
        assert min(scores) >= float(editor.hooks[path].threshold(model.dtype)) - 1e-3


def test_the_papers_rule_lets_earlier_edits_drop_out(tokenizer: Any) -> None:
    kept = {}
    for choice in ("batch", "all"):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", **{**ALL, "alpha_prompts": choice}))
        for request in requests_for():
            editor.edit([request])
        kept[choice] = all(
            min(scores) >= editor.alphas[path] - 1e-3 for path, scores in highest(model, tokenizer).items()
        )
    assert kept == {"batch": False, "all": True}


def test_an_edit_below_the_floor_is_given_up_in_every_layer(tokenizer: Any) -> None:
    for floor in (0.0, 1e9):
        model = build_model("llama")
        editor = editor_on(model, tokenizer, hparams_for("llama", **{**ALL, "alpha_floor": floor}))
        for request in requests_for():
            editor.edit([request])
        assert all((alpha == 50) == (floor > 0) for alpha in editor.alphas.values())


def test_one_prompt_that_hardly_stands_out_does_not_cost_the_others(tokenizer: Any) -> None:
    def alphas_with(floor: float, *numbers: int) -> tuple[dict[str, float], dict[str, list[float]]]:
        model = build_model("llama")
        options = {**ALL, "batch_size": 4, "alpha_floor": floor}
        editor = editor_on(model, tokenizer, hparams_for("llama", **options))
        editor.edit(requests_for(*numbers))
        return editor.alphas, highest(model, tokenizer)

    _, scores = alphas_with(1e9)
    least = sorted(min(values[number] for values in scores.values()) for number in range(len(BATCH)))
    floor = (least[0] + least[1]) / 2
    kept, scores = alphas_with(floor)
    weakest = min(range(len(BATCH)), key=lambda number: min(values[number] for values in scores.values()))
    for path, values in scores.items():
        others = [value for number, value in enumerate(values) if number != weakest]
        assert kept[path] == pytest.approx(min(*others, 50.0), rel=1e-3)


def test_an_edit_that_has_lost_its_z_scores_asks_for_nothing(tokenizer: Any) -> None:
    model = build_model("llama")
    editor = editor_on(model, tokenizer, hparams_for("llama", **ALL))
    editor.edit(requests_for(0))
    batch = editor.state.batches[0]
    editor.state.batches[0] = dataclasses.replace(batch, prompts=((5, 5),))  # judged by others, two tokens have none
    before = min(editor.alphas.values())
    editor.edit(requests_for(1))
    assert 0 < min(editor.alphas.values()) <= before


def test_earlier_prompts_take_turns() -> None:
    prompts = [(number,) for number in range(50)]
    assert alphas.round_robin(prompts, None, 3) == prompts == alphas.round_robin(prompts, 50, 3)
    assert alphas.round_robin(prompts, 0, 3) == []
    looked_at: set[tuple[int, ...]] = set()
    for turn in range(12):
        chosen = [tuple(prompt) for prompt in alphas.round_robin(prompts, 10, turn)]
        assert len(set(chosen)) == 10
        looked_at.update(chosen)
    assert looked_at == set(prompts)


def test_no_more_prompts_are_looked_at_than_asked_for(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    keep = alphas.keep_in_scope

    def counting(runner: Any, hooks: Any, before: Any, lowered: Any, prompts: Any, *rest: Any) -> Any:
        counts.append(len(prompts))
        return keep(runner, hooks, before, lowered, prompts, *rest)

    monkeypatch.setattr("easyedit_lifelong.methods.coachhook.editor.keep_in_scope", counting)
    for checked, expected in ((None, [1, 2, 3, 4]), (2, [1, 2, 3, 3]), (0, [1, 1, 1, 1])):
        counts.clear()
        editor = editor_on(build_model("llama"), tokenizer, hparams_for("llama", **ALL, alpha_checked=checked))
        for request in requests_for():
            editor.edit([request])
        assert counts == expected


def test_a_group_that_nothing_has_changed_for_is_not_run_again(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, fell = [], []
    keep = alphas.keep_in_scope

    def counting(runner: Any, hooks: Any, before: Any, lowered: Any, *rest: Any) -> Any:
        call, count = runner.call, [0]

        def counted(*args: Any) -> Any:
            count[0] += 1
            return call(*args)

        with monkeypatch.context() as patched:
            patched.setattr(runner, "call", counted)
            found = keep(runner, hooks, before, lowered, *rest)
        passes.append(count[0])
        fell.append(found[0] != dict(lowered))
        return found

    monkeypatch.setattr("easyedit_lifelong.methods.coachhook.editor.keep_in_scope", counting)
    editor = editor_on(build_model("llama"), tokenizer, hparams_for("llama", **ALL))
    for request in requests_for():
        editor.edit([request])
    assert any(fell)
    assert passes == [1, 1, 1, 1]  # all prompts are one group, and their own pass has seen α fall
