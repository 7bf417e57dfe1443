"""CoachHook with ``scope_score: codebook``: which tokens are in scope of which edits, and what the edits add there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import explain, load_edits, save_edits
from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.edits import rollback_to_batch
from easyedit_lifelong.errors import EditError, HyperParameterError, LifelongError, ModelError
from easyedit_lifelong.methods.coachhook.editor import CoachHookEditor, coachhook_editor
from easyedit_lifelong.methods.coachhook.subject_scope import Decision
from easyedit_lifelong.methods.shared.subject_keys import model_neighbourhood
from easyedit_lifelong.models.capture import recording_inputs
from easyedit_lifelong.models.prompt_positions import PositionTracker
from tests.support.coachhook_edits import FACTS, LEARNABLE_FACT, OTHERS, editor_on, hparams_for, requests_for
from tests.support.next_word import next_word
from tests.support.tiny_models import build_model, build_tokenizer

PROMPTS = [*(prompt for prompt, _, _ in FACTS), *OTHERS]
CODEBOOK: dict[str, Any] = {"scope_score": "codebook", "key_templates": ["but {subject}"]}
close = torch.testing.assert_close


def codebook_editor(family: str, **options: Any) -> CoachHookEditor:
    """Return an editor on a tiny model, without edits."""
    return editor_on(build_model(family), build_tokenizer(), hparams_for(family, **{**CODEBOOK, **options}))


@pytest.fixture
def editor(family: str) -> CoachHookEditor:
    """An editor with the edits of all facts, in two batches."""
    editor = codebook_editor(family, mom2_update_weight=0.01)
    editor.edit(requests_for())
    return editor


def logits_of(editor: CoachHookEditor, prompt: str) -> Tensor:
    """Return the logits at every token of a prompt, ``(tokens, vocabulary)``."""
    ids = torch.tensor([editor.tokenizer(prompt)["input_ids"]])
    with torch.no_grad():
        logits: Tensor = editor.model(input_ids=ids).logits[0]
    return logits


def decision_on(editor: CoachHookEditor, prompt: str) -> tuple[Decision, dict[str, tuple[Tensor, Tensor]]]:
    """Return the decision about a prompt, and the inputs and outputs of each edited projection in the same pass."""
    assert editor.scope is not None
    decisions: list[Decision] = []
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    hooks = editor.hooks
    handles = []
    for path, hook in hooks.items():

        def record(_: Any, __: Any, output: Tensor, path: str = path) -> None:
            outputs[path] = output.clone()
            tracker = PositionTracker.of(editor.model)
            assert tracker is not None
            decision = editor.scope.decision(tracker.current()) if editor.scope else None
            assert decision is not None
            decisions.append(decision)

        handles.append(hook.module.register_forward_hook(record))
    try:
        with recording_inputs({path: hook.module for path, hook in hooks.items()}, inputs.__setitem__):
            logits_of(editor, prompt)
    finally:
        for handle in handles:
            handle.remove()
    return decisions[0], {path: (inputs[path], outputs[path]) for path in hooks}


def test_the_subjects_last_token_is_in_scope_of_its_edit_alone(editor: CoachHookEditor) -> None:
    for number, (prompt, _, subject) in enumerate(FACTS):
        decision, _ = decision_on(editor, prompt)
        words = prompt.split()
        position = words.index(subject) + len(decision.in_scope[0]) - len(words)
        assert decision.in_scope[0, position]
        row = int(decision.in_scope[0, :position].sum())
        assert decision.matches[row, number]


def test_what_is_added_at_a_token_is_the_sum_of_the_updates_of_its_edits(editor: CoachHookEditor) -> None:
    for prompt in PROMPTS:
        decision, projections = decision_on(editor, prompt)
        matches = torch.zeros(decision.in_scope.shape[1], len(FACTS), dtype=torch.float64)
        matches[decision.in_scope[0]] = decision.matches.double()
        for path, (keys, output) in projections.items():
            updates = [batch.layers[path] for batch in editor.state.batches]
            adjusted = torch.cat([update.adjusted for update in updates], dim=1).double()
            residual = torch.cat([update.residual for update in updates], dim=1).double()
            expected = torch.zeros_like(output[0]).double()
            for token in range(len(expected)):
                for edit in range(len(FACTS)):
                    weight = matches[token, edit] * (adjusted[:, edit] @ keys[0, token].double())
                    expected[token] += weight * residual[:, edit]
            with editor.without_edits():
                unedited = editor.hooks[path].module(keys)
            close((output - unedited)[0].double(), expected, rtol=1e-3, atol=1e-5)


def test_prompts_without_an_edited_subject_keep_their_logits_bitwise(family: str) -> None:
    # One edit: the radius of its key is the distance of a neutral sentence at most.
    editor = codebook_editor(family)
    before = {prompt: logits_of(editor, prompt) for prompt in OTHERS}
    editor.edit(requests_for(0))
    for prompt, logits in before.items():
        decision, _ = decision_on(editor, prompt)
        assert torch.equal(logits_of(editor, prompt), logits) == (not decision.in_scope.any())
        first = int(decision.in_scope[0].long().argmax()) if decision.in_scope.any() else len(logits)
        close(logits_of(editor, prompt)[:first], logits[:first])


def test_an_edit_does_not_change_the_scope_of_earlier_ones(family: str) -> None:
    editor = codebook_editor(family)
    editor.edit(requests_for(0, 1))
    before = {prompt: decision_on(editor, prompt)[0] for prompt in PROMPTS}
    editor.edit(requests_for(2, 3))
    for prompt, decision in before.items():
        after, _ = decision_on(editor, prompt)
        assert torch.equal(after.matches[:, :2][after.matches[:, :2].any(dim=1)], decision.matches)


def test_decisions_do_not_depend_on_padding_other_rows_or_the_cache(editor: CoachHookEditor) -> None:
    tokenizer, model = editor.tokenizer, editor.model
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        logits = model(**batch).logits
    for row, prompt in enumerate(PROMPTS):
        single_logits = logits_of(editor, prompt)
        close(logits[row, : len(single_logits)], single_logits, rtol=1e-3, atol=1e-4)
        single = tokenizer([prompt], return_tensors="pt")
        cached = model.generate(**single, max_new_tokens=6, do_sample=False, use_cache=True)
        assert torch.equal(cached, model.generate(**single, max_new_tokens=6, do_sample=False, use_cache=False))


def test_a_prompt_in_parts_is_answered_like_the_whole_prompt(editor: CoachHookEditor) -> None:
    for prompt in PROMPTS[:4]:
        ids = torch.tensor([editor.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            first = editor.model(input_ids=ids[:, :2], use_cache=True)
            second = editor.model(input_ids=ids[:, 2:], past_key_values=first.past_key_values)
        close(second.logits[0], logits_of(editor, prompt)[2:], rtol=1e-3, atol=1e-4)


def test_an_edit_is_learned_and_generated(family: str) -> None:
    prompt, target, subject = LEARNABLE_FACT
    editor = codebook_editor(family, layers=[2], mom2_update_weight=1e-3, v_num_grad_steps=30)
    results, _ = editor.edit([EditRequest(0, prompt, target, subject)])
    assert results[0].learned
    assert next_word(editor.model, prompt) == target


def test_rolling_back_restores_logits_bitwise(family: str) -> None:
    editor = codebook_editor(family)
    base = [logits_of(editor, prompt) for prompt in PROMPTS]
    editor.edit(requests_for(0, 1))
    first = [logits_of(editor, prompt) for prompt in PROMPTS]
    _, roll_back = editor.edit(requests_for(2, 3))
    assert not all(
        torch.equal(logits_of(editor, prompt), before) for prompt, before in zip(PROMPTS, first, strict=True)
    )
    roll_back()
    assert all(torch.equal(logits_of(editor, prompt), before) for prompt, before in zip(PROMPTS, first, strict=True))
    model = editor.model
    editor.back_to(0)
    assert CoachHookEditor.of(model) is None
    assert all(torch.equal(logits_of(editor, prompt), before) for prompt, before in zip(PROMPTS, base, strict=True))
    assert not any("coachhook" in name for name, _ in model.named_modules())


def test_a_failed_batch_leaves_no_trace(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = codebook_editor(family)
    editor.edit(requests_for(0, 1))
    before = [logits_of(editor, prompt) for prompt in PROMPTS]
    last = list(editor.hooks.values())[-1]

    def fail(factors: Any) -> None:
        raise EditError("injected")

    with monkeypatch.context() as patched:
        patched.setattr(last, "set_factors", lambda factors: fail(factors) if factors.shape[1] > 2 else None)
        with pytest.raises(EditError, match="injected"):
            editor.edit(requests_for(2, 3))
    assert all(torch.equal(logits_of(editor, prompt), logits) for prompt, logits in zip(PROMPTS, before, strict=True))


def test_saved_edits_give_the_same_logits_in_another_model(
    editor: CoachHookEditor, family: str, tmp_path: Path
) -> None:
    save_edits(editor.model, tmp_path / "edits")
    other = build_model(family)
    load_edits(other, tmp_path / "edits")
    loaded = coachhook_editor(other)
    for prompt in PROMPTS:
        ids = torch.tensor([editor.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            assert torch.equal(other(input_ids=ids).logits[0], logits_of(editor, prompt))
    assert [tuple(batch.whitening.shape) for batch in loaded.state.batches] == [
        tuple(batch.whitening.shape) for batch in editor.state.batches
    ]


def test_a_copied_model_has_edits_of_its_own(editor: CoachHookEditor) -> None:
    copied = copy.deepcopy(editor.model)
    before = [logits_of(editor, prompt) for prompt in PROMPTS]
    coachhook_editor(copied).back_to(0)
    assert all(torch.equal(logits_of(editor, prompt), logits) for prompt, logits in zip(PROMPTS, before, strict=True))


def test_the_score_of_a_token_in_scope_is_at_least_1_if_its_key_has_a_radius_of_0(editor: CoachHookEditor) -> None:
    assert editor.scope is not None and editor.scope._keys is not None
    editor.scope._keys.radii.zero_()
    decision, _ = decision_on(editor, FACTS[1][0])
    assert decision.in_scope.any()
    assert torch.equal(editor.scope.scores(decision) >= 1, decision.in_scope)


def test_scores_allow_for_the_rounding_that_decisions_allow_for() -> None:
    """The keys end a little short of the tokens, by less than bfloat16 rounds."""
    editor = editor_on(build_model("llama", torch.bfloat16), build_tokenizer(), hparams_for("llama", **CODEBOOK))
    editor.edit(requests_for(0))
    assert editor.scope is not None and editor.scope._keys is not None
    decision, _ = decision_on(editor, OTHERS[0])
    distances = editor.scope._distances(decision.queries[0])
    editor.scope._keys.radii.fill_(float(distances[distances > 0.1].min()) - 0.001)
    decision, _ = decision_on(editor, OTHERS[0])
    assert decision.in_scope.any()
    assert torch.equal(editor.scope.scores(decision) >= 1, decision.in_scope)


def test_explain_names_the_edit_that_acts(editor: CoachHookEditor) -> None:
    prompt, _, subject = FACTS[1]
    explanation = explain(editor.model, editor.tokenizer, prompt)
    for layer in explanation.coachhook:
        acting = [token for token in layer.tokens if token.acts]
        assert subject in {token.token.strip() for token in acting}
        assert all((token.score >= 1) == token.acts for token in layer.tokens)
        assert any(1 in token.case_ids for token in acting)
        assert layer.answered_by == tuple(dict.fromkeys(case_id for token in acting for case_id in token.case_ids))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_z": 3.0}, "alpha_z"),
        ({"z_tokens": "others"}, "z_tokens"),
        ({"wohk": True}, "wohk"),
        ({"fact_token": "last"}, "fact_token"),
        ({"key_templates": ["no placeholder"]}, "key_templates"),
        ({"false_fire_rate": 1.5}, "false_fire_rate"),
    ],
)
def test_settings_that_do_not_combine_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperParameterError, match=message):
        hparams_for("llama", scope_score="codebook", **options)


def test_settings_of_the_codebook_need_it() -> None:
    with pytest.raises(HyperParameterError, match="needs scope_score: codebook"):
        hparams_for("llama", false_fire_rate=0.1)


@pytest.mark.parametrize("layer", ["model.layers.3.mlp.down_proj", "model.norm"])
def test_a_scope_layer_that_edits_would_change_is_refused(layer: str) -> None:
    with pytest.raises(ModelError, match="scope_layer"):
        codebook_editor("llama", scope_layer=layer)


@pytest.mark.parametrize("name", ["key_vectors", "radii", "whitening"])
def test_keys_that_do_not_fit_are_refused(name: str) -> None:
    editor = codebook_editor("llama")
    editor.edit(requests_for(0, 1))
    (batch,) = editor.state.batches
    wrong = getattr(batch, name)[:-1] if name != "radii" else torch.full((1, 2), float("nan"))
    other = codebook_editor("llama")
    with pytest.raises(LifelongError, match=name):
        other.load_batches([type(batch)(**{**batch.__dict__, name: wrong})])


def test_the_neighbourhood_is_computed_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[str] = []
    original = model_neighbourhood.Neighbourhood

    def counting(*args: Any, **kwargs: Any) -> Any:
        computed.append("Neighbourhood")
        return original(*args, **kwargs)

    monkeypatch.setattr(model_neighbourhood, "Neighbourhood", counting)
    first = codebook_editor("llama")
    first.edit(requests_for())
    radii = torch.cat([keys.radii for keys in (batch.subject_keys for batch in first.state.batches)], dim=1)
    rollback_to_batch(first.model, 0)
    again = editor_on(first.model, first.tokenizer, first.hparams)
    again.edit(requests_for())
    assert computed == ["Neighbourhood"]
    assert torch.equal(torch.cat([batch.subject_keys.radii for batch in again.state.batches], dim=1), radii)
