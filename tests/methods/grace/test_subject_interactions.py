"""Several edits found by subject: facts about one subject, batches, failed edits and removal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.subjects import (
    FACTS,
    OTHERS,
    PROMPTS,
    SUBJECT_LAST_WORDS,
    answer,
    codebook_of,
    edited,
    hparams_for,
    ids_of,
)
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FRANCE = [
    {"case_id": "capital", "prompt": "the capital of France is", "subject": "France", "target_new": "Rome"},
    {"case_id": "language", "prompt": "language spoken in France", "subject": "France", "target_new": "Spanish"},
]
GATE_EPS = 0.05


def apply_to(model: Any, facts: list[dict[str, Any]], hparams: GraceHyperParams) -> Any:
    return apply_grace_to_model(model, build_tokenizer(), facts, hparams)[1]


# ------------------------------------------------------------------ facts about the same subject


def test_with_gates_two_facts_about_one_subject_both_answer(family: str) -> None:
    model, rollback, editor = edited(family, "late", FRANCE, gate_eps=GATE_EPS)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "add"]
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == ["Rome", "Spanish"]
    other_relation, unedited = "old king of France", build_model(family)
    assert torch.equal(model(**ids_of(other_relation)).logits, unedited(**ids_of(other_relation)).logits), (
        "an edit answers a prompt about another relation"
    )
    # The removal of one fact leaves the other.
    editor.remove("capital")
    assert answer(model, FRANCE[1]["prompt"]) == "Spanish"
    prompt = ids_of(FRANCE[0]["prompt"])
    assert torch.equal(model(**prompt).logits, unedited(**prompt).logits)


def test_without_gates_a_later_fact_about_a_subject_supersedes_the_earlier(mode: str) -> None:
    model, rollback, editor = edited("llama", mode, FRANCE, n_iter=100)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "supersede"]
    assert answer(model, FRANCE[1]["prompt"]) == "Spanish"
    editor.remove("language")
    assert answer(model, FRANCE[0]["prompt"]) == "Rome"


def test_a_split_halves_the_distance_and_each_key_matches_its_prompt(mode: str) -> None:
    """Above the first block, the same subject gives different queries in different prompts."""
    model, rollback, editor = edited("llama", mode, FRANCE, deep=True, eps=0.5, n_iter=100)
    first, second = rollback.results
    assert second.detail["decision"] == "split"
    radii = codebook_of(editor).radii
    assert radii.tolist() == pytest.approx([second.detail["nearest_distance"] / 2] * 2, abs=2e-5)
    outputs = [answer(model, fact["prompt"]) for fact in FRANCE]
    assert [output == fact["target_new"] for output, fact in zip(outputs, FRANCE, strict=True)] == [first.learned, True]
    assert codebook_of(editor).hits == {0: 1, 1: 1}
    editor.remove("language")
    assert codebook_of(editor).radii.tolist() == [0.5]


def test_a_key_is_split_only_if_its_gate_is_near() -> None:
    far, near = (
        edited("llama", "late", FRANCE, gate_eps=gate, deep=True, eps=0.5)[1].results for gate in (GATE_EPS, 1.9)
    )
    assert far[1].detail["decision"] == "add"
    assert near[1].detail["decision"] == "split"


@pytest.mark.parametrize("gate_eps", [GATE_EPS, 1.99])
@pytest.mark.parametrize("corrected", [0, 1])
def test_a_corrected_fact_supersedes_only_the_fact_with_its_relation(gate_eps: float, corrected: int) -> None:
    """Also with a wide gate: of two facts about the subject, the one with the nearer gate answers."""
    model, rollback, editor = edited("llama", "late", FRANCE, gate_eps=gate_eps)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "add"]
    before = ["Rome", "Spanish"]
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == before
    rollback = apply_to(model, [{**FRANCE[corrected], "case_id": "again", "target_new": "Berlin"}], editor.hparams)
    assert rollback.results[0].detail["decision"] == "supersede"
    after = [*before]
    after[corrected] = "Berlin"
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == after
    rollback()
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == before


def test_a_nearer_key_with_too_small_a_radius_does_not_hide_a_farther_one() -> None:
    """A third prompt about the subject lies in the radius of the farther of two keys, and not in that of the nearer."""
    model, _, editor = edited("llama", "late", FRANCE, deep=True, gate_eps=1.99, eps=1.0)
    codebook = codebook_of(editor)
    prompt = "snow and France is"
    recorded: list[Any] = []
    with editor.adaptor.recording_lookups(lambda *decision: recorded.append(decision)):
        model(**ids_of(prompt))
    queries, looked_up = recorded[0][0][0], recorded[0][1][0]
    assert looked_up.tolist() == [True] * 4
    distances = codebook.distances(queries[2:3])[0]
    nearer = int(distances.argmin())
    codebook.radii[nearer], codebook.radii[1 - nearer] = distances[nearer] / 2, distances[1 - nearer] * 1.01
    assert codebook.lookup(queries[2:3]).tolist() == [-1], "the plain lookup uses a key that is not the nearest"
    assert codebook.within_any_radius(queries[2:3]).tolist() == [True]
    model(**ids_of(prompt))
    assert codebook.hits[1 - nearer] == 1
    assert codebook.hits[nearer] == 0


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("contexts", [[], ["blue sea {prompt}", "{subject} is"]])
def test_a_batch_gives_the_keys_and_values_of_single_edits(family: str, mode: str, contexts: list[str]) -> None:
    codebooks, all_results = [], []
    options: dict[str, Any] = {
        "reg": None,
        "n_iter": 5,
        "edit_lr": 0.05,
        "kl_factor": 0.1,
        "context_templates": contexts,
        "deep": True,
        "gate_eps": GATE_EPS if mode == "late" else None,
        "key_templates": ["blue sea {prompt}"],
    }
    for size in (1, 3, 16):
        _, rollback, editor = edited(family, mode, [*FACTS, FRANCE[1]], train_batch=size, **options)
        codebooks.append(codebook_of(editor))
        all_results.append(rollback.results)
    for codebook, results in zip(codebooks[1:], all_results[1:], strict=True):
        decisions = [
            [result.detail["decision"] for result in batch_results] for batch_results in (results, all_results[0])
        ]
        assert decisions[0] == decisions[1]
        assert codebook.labels == codebooks[0].labels
        for name in ("keys", "gates", "radii"):
            torch.testing.assert_close(getattr(codebook, name), getattr(codebooks[0], name), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(codebook.values, codebooks[0].values, rtol=2e-2, atol=2e-2)
        assert [r.loss for r in results] == pytest.approx([r.loss for r in all_results[0]], rel=2e-2, abs=1e-2)


def test_partial_passes_train_the_same_values_as_full_passes(family: str, mode: str) -> None:
    values = []
    for partial in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        hparams = hparams_for(
            family, mode, deep=True, n_iter=8, reg=None, edit_lr=0.05, context_templates=["{subject} is"], kl_factor=0.1
        )
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not partial:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
        assert editor.replay_support[0] is partial
        values.append(codebook_of(editor).values)
    torch.testing.assert_close(*values, rtol=2e-2, atol=2e-2)


def test_dropout_does_not_depend_on_the_batch_size(mode: str) -> None:
    options: dict[str, Any] = {"dropout": 0.2, "n_iter": 5, "reg": None, "context_templates": ["{subject} is"]}
    codebooks = [codebook_of(edited("gpt2", mode, train_batch=size, **options)[2]) for size in (1, 16)]
    assert torch.equal(codebooks[0].values, codebooks[1].values)
    without_dropout = codebook_of(edited("gpt2", mode, **{**options, "dropout": 0.0})[2])
    assert not torch.equal(without_dropout.values, codebooks[0].values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_gives_learned_answers_in_any_batch(mode: str, dtype: torch.dtype) -> None:
    model, tokenizer = build_model("llama", dtype), build_tokenizer()
    options: dict[str, Any] = {"n_iter": 100}
    options |= {"gate_eps": GATE_EPS, "deep": True, "eps": 0.1} if mode == "late" else {}
    rollback = apply_to(model, FACTS, hparams_for("llama", mode, **options))
    codebook = codebook_of(GraceEditor.on(model, tokenizer, hparams_for("llama", mode, **options)))
    assert {codebook.values.dtype, codebook.radii.dtype} == {torch.float32}
    assert codebook.keys.dtype == dtype, "the keys are wider than the model's activations"
    learned = [result.learned for result in rollback.results]
    assert sum(learned) >= 3
    for prompts in ([PROMPTS[0]], PROMPTS, [*PROMPTS, "blue " * 20, *OTHERS]):
        logits = model(**ids_of(*prompts)).logits[: len(FACTS), -1]
        outputs = [tokenizer.decode(int(token)) for token in logits.argmax(dim=1)]
        assert all(
            output == fact["target_new"] or not was_learned
            for output, fact, was_learned in zip(outputs, FACTS, learned, strict=False)
        )


# ------------------------------------------------------------------ failed edits, refusals and removal


@pytest.mark.parametrize("n_earlier", [0, 2])
def test_a_failed_edit_undoes_all_edits_of_its_call_and_no_others(mode: str, n_earlier: int) -> None:
    model = build_model("llama")
    hparams = hparams_for("llama", mode, n_iter=5)
    if n_earlier:
        apply_to(model, FACTS[:n_earlier], hparams)
    state, attributes = state_of(model), set(model.__dict__)
    logits = model(**ids_of(*PROMPTS, *OTHERS)).logits
    with pytest.raises(EditError, match=r"lower edit_lr"):
        apply_to(model, FACTS[n_earlier:], hparams_for("llama", mode, n_iter=5, edit_lr=3e38, reg=None))
    assert set(model.state_dict()) == set(state)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert set(model.__dict__) == attributes
    assert torch.equal(model(**ids_of(*PROMPTS, *OTHERS)).logits, logits)


@pytest.mark.parametrize(
    ("fact", "problem"),
    [
        ({"prompt": "Hamlet is from", "target_new": "Peru"}, r"request 1.*field 'subject': is missing"),
        ({"prompt": "Hamlet is from", "subject": "France", "target_new": "Peru"}, r"request 1.*'France' isn't in the"),
        ({"prompt": "moon " * 70, "subject": "moon", "target_new": "Peru"}, r"request 1.*'prompt'.*context is 64"),
    ],
)
def test_an_unusable_request_is_refused_with_its_number_and_field(
    mode: str, fact: dict[str, Any], problem: str
) -> None:
    model, names = build_model("llama"), set(build_model("llama").__dict__)
    with pytest.raises(DataError, match=problem):
        apply_to(model, [FACTS[0], fact], hparams_for("llama", mode))
    assert set(model.__dict__) == names


def test_removal_in_any_order_leaves_the_other_edits_unchanged(mode: str) -> None:
    with_all_edits = edited("llama", mode, n_iter=5)[2]
    for removed in ([0], [3], [1, 2], [3, 0, 2, 1]):
        model, _, editor = edited("llama", mode, n_iter=5)
        for case_id in removed:
            editor.remove(case_id)
        remaining = [n for n in range(4) if n not in removed]
        if not remaining:
            assert not GraceEditor.all_of(model)
            continue
        assert torch.equal(codebook_of(editor).values, codebook_of(with_all_edits).values[remaining])
        assert torch.equal(codebook_of(editor).keys, codebook_of(with_all_edits).keys[remaining])
        prompts = [f"sea and {word}" for word in SUBJECT_LAST_WORDS]
        model(**ids_of(*prompts))
        assert codebook_of(editor).hits == {n: 1 for n in range(len(remaining))}


def test_further_edits_with_other_settings_are_refused(mode: str) -> None:
    model, _, _ = edited("llama", mode, FACTS[:1], n_iter=2)
    for options in ({"eps": 0.2}, {"key_templates": ["{subject}"]}, {"whiten": True}):
        with pytest.raises(EditError, match=rf"can't be continued with {next(iter(options))}="):
            apply_to(model, FACTS[1:], hparams_for("llama", mode, n_iter=2, **options))
