"""What edits by subjects do to the codebook and to one another, and what is left when one fails or is taken back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.errors import DataError, EditError
from easyedit_lifelong.methods.grace.editor import GraceEditor
from tests.support.subjects import ENDS, FACTS, MODES, OTHERS, PROMPTS, answer, book_of, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FRANCE = [
    {"case_id": "capital", "prompt": "the capital of France is", "subject": "France", "target_new": "Rome"},
    {"case_id": "language", "prompt": "language spoken in France", "subject": "France", "target_new": "Spanish"},
]
GATE = 0.05


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def more(model: Any, facts: list[dict[str, Any]], hparams: GraceHyperParams) -> Any:
    return apply_grace_to_model(model, build_tokenizer(), facts, hparams)[1]


# ------------------------------------------------------------------ several facts about one subject


def test_two_facts_of_one_subject_answer_behind_their_gates(family: str) -> None:
    model, rollback, editor = edited(family, "late", FRANCE, gate_eps=GATE)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "add"]
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == ["Rome", "Spanish"]
    other, unedited = "old king of France", build_model(family)
    assert torch.equal(model(**ids_of(other)).logits, unedited(**ids_of(other)).logits), "neither relation is meant"
    # Taken back, the one leaves the other.
    editor.remove("capital")
    assert answer(model, FRANCE[1]["prompt"]) == "Spanish"
    prompt = ids_of(FRANCE[0]["prompt"])
    assert torch.equal(model(**prompt).logits, unedited(**prompt).logits)


def test_without_a_gate_the_later_fact_takes_the_place_of_the_earlier(mode: str) -> None:
    model, rollback, editor = edited("llama", mode, FRANCE, n_iter=100)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "supersede"]
    assert answer(model, FRANCE[1]["prompt"]) == "Spanish"
    editor.remove("language")
    assert answer(model, FRANCE[0]["prompt"]) == "Rome"


def test_a_split_leaves_each_its_own_prompt(mode: str) -> None:
    """Deep enough that one subject has two queries."""
    model, rollback, editor = edited("llama", mode, FRANCE, deep=True, eps=0.5, n_iter=100)
    first, second = rollback.results
    assert second.detail["decision"] == "split"
    radii = book_of(editor).radii
    assert radii.tolist() == pytest.approx([second.detail["nearest_distance"] / 2] * 2, abs=2e-5)
    said = [answer(model, fact["prompt"]) for fact in FRANCE]
    assert [word == fact["target_new"] for word, fact in zip(said, FRANCE, strict=True)] == [first.learned, True]
    assert book_of(editor).hits == {0: 1, 1: 1}
    editor.remove("language")
    assert book_of(editor).radii.tolist() == [0.5]


def test_a_near_gate_competes_and_a_far_one_does_not() -> None:
    far, near = (edited("llama", "late", FRANCE, gate_eps=gate, deep=True, eps=0.5)[1].results for gate in (GATE, 1.9))
    assert far[1].detail["decision"] == "add"
    assert near[1].detail["decision"] == "split"


@pytest.mark.parametrize("gate", [GATE, 1.99])
@pytest.mark.parametrize("number", [0, 1])
def test_a_fact_corrected_again_takes_the_earlier_ones_place_alone(gate: float, number: int) -> None:
    """However wide the gate: prompts on one subject are told apart by which gate is nearer."""
    model, rollback, editor = edited("llama", "late", FRANCE, gate_eps=gate)
    assert [result.detail["decision"] for result in rollback.results] == ["add", "add"]
    before = ["Rome", "Spanish"]
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == before
    rollback = more(model, [{**FRANCE[number], "case_id": "again", "target_new": "Berlin"}], editor.hparams)
    assert rollback.results[0].detail["decision"] == "supersede"
    after = [*before]
    after[number] = "Berlin"
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == after
    rollback()
    assert [answer(model, fact["prompt"]) for fact in FRANCE] == before


def test_a_key_that_is_nearer_but_narrower_hides_no_other() -> None:
    """Two facts of one subject whose keys lie apart, the nearer one's radius too small for a third wording."""
    model, _, editor = edited("llama", "late", FRANCE, deep=True, gate_eps=1.99, eps=1.0)
    book = book_of(editor)
    wording = "snow and France is"
    noted: list[Any] = []
    with editor.adaptor.recording_decisions(lambda *heard: noted.append(heard)):
        model(**ids_of(wording))
    queries, looked_up = noted[0][0][0], noted[0][1][0]
    assert looked_up.tolist() == [True] * 4
    distances = book.distances(queries[2:3])[0]
    near = int(distances.argmin())
    book.radii[near], book.radii[1 - near] = distances[near] / 2, distances[1 - near] * 1.01
    assert book.lookup(queries[2:3]).tolist() == [-1], "GRACE's own lookup asks the nearest alone"
    assert book.within_any_radius(queries[2:3]).tolist() == [True]
    model(**ids_of(wording))
    assert book.hits[1 - near] == 1
    assert book.hits[near] == 0


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("contexts", [[], ["blue sea {prompt}", "{subject} is"]])
def test_together_is_one_by_one(family: str, mode: str, contexts: list[str]) -> None:
    books, told = [], []
    options: dict[str, Any] = {
        "reg": None,
        "n_iter": 5,
        "edit_lr": 0.05,
        "kl_factor": 0.1,
        "context_templates": contexts,
        "deep": True,
        "gate_eps": GATE if mode == "late" else None,
        "key_templates": ["blue sea {prompt}"],
    }
    for size in (1, 3, 16):
        _, rollback, editor = edited(family, mode, [*FACTS, FRANCE[1]], train_batch=size, **options)
        books.append(book_of(editor))
        told.append(rollback.results)
    for book, results in zip(books[1:], told[1:], strict=True):
        decisions = [[result.detail["decision"] for result in one] for one in (results, told[0])]
        assert decisions[0] == decisions[1]
        assert book.labels == books[0].labels
        for name in ("keys", "gates", "radii"):
            torch.testing.assert_close(getattr(book, name), getattr(books[0], name), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(book.values, books[0].values, rtol=2e-2, atol=2e-2)
        assert [r.loss for r in results] == pytest.approx([r.loss for r in told[0]], rel=2e-2, abs=1e-2)


def test_the_whole_model_trains_what_a_part_of_it_does(family: str, mode: str) -> None:
    values = []
    for shortcuts in (True, False):
        model, tokenizer = build_model(family), build_tokenizer()
        hparams = hparams_for(
            family, mode, deep=True, n_iter=8, reg=None, edit_lr=0.05, context_templates=["{subject} is"], kl_factor=0.1
        )
        editor = GraceEditor.on(model, tokenizer, hparams)
        if not shortcuts:
            editor._passes.replay_support = (False, 0)
        apply_grace_to_model(model, tokenizer, FACTS, hparams)
        assert editor.replay_support[0] is shortcuts
        values.append(book_of(editor).values)
    torch.testing.assert_close(*values, rtol=2e-2, atol=2e-2)


def test_dropout_is_drawn_for_one_edit_alone(mode: str) -> None:
    options: dict[str, Any] = {"dropout": 0.2, "n_iter": 5, "reg": None, "context_templates": ["{subject} is"]}
    books = [book_of(edited("gpt2", mode, train_batch=size, **options)[2]) for size in (1, 16)]
    assert torch.equal(books[0].values, books[1].values)
    still = book_of(edited("gpt2", mode, **{**options, "dropout": 0.0})[2])
    assert not torch.equal(still.values, books[0].values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_answers_in_any_batch(mode: str, dtype: torch.dtype) -> None:
    model, tokenizer = build_model("llama", dtype), build_tokenizer()
    options: dict[str, Any] = {"n_iter": 100}
    options |= {"gate_eps": GATE, "deep": True, "eps": 0.1} if mode == "late" else {}
    rollback = more(model, FACTS, hparams_for("llama", mode, **options))
    book = book_of(GraceEditor.on(model, tokenizer, hparams_for("llama", mode, **options)))
    assert {book.values.dtype, book.radii.dtype} == {torch.float32}
    assert book.keys.dtype == dtype, "they lose nothing in it"
    learned = [result.learned for result in rollback.results]
    assert sum(learned) >= 3
    for prompts in ([PROMPTS[0]], PROMPTS, [*PROMPTS, "blue " * 20, *OTHERS]):
        logits = model(**ids_of(*prompts)).logits[: len(FACTS), -1]
        said = [tokenizer.decode(int(token)) for token in logits.argmax(dim=1)]
        assert all(
            word == fact["target_new"] or not knew for word, fact, knew in zip(said, FACTS, learned, strict=False)
        )


# ------------------------------------------------------------------ failure


@pytest.mark.parametrize("before", [0, 2])
def test_a_failing_edit_undoes_its_call(mode: str, before: int) -> None:
    model = build_model("llama")
    hparams = hparams_for("llama", mode, n_iter=5)
    if before:
        more(model, FACTS[:before], hparams)
    state, attributes = state_of(model), set(model.__dict__)
    logits = model(**ids_of(*PROMPTS, *OTHERS)).logits
    with pytest.raises(EditError, match=r"lower edit_lr"):
        more(model, FACTS[before:], hparams_for("llama", mode, n_iter=5, edit_lr=3e38, reg=None))
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
def test_a_request_that_cannot_be_used_is_named(mode: str, fact: dict[str, Any], problem: str) -> None:
    model, names = build_model("llama"), set(build_model("llama").__dict__)
    with pytest.raises(DataError, match=problem):
        more(model, [FACTS[0], fact], hparams_for("llama", mode))
    assert set(model.__dict__) == names


def test_taking_edits_back_in_any_order_leaves_what_the_others_are(mode: str) -> None:
    whole = edited("llama", mode, n_iter=5)[2]
    for out in ([0], [3], [1, 2], [3, 0, 2, 1]):
        model, _, editor = edited("llama", mode, n_iter=5)
        for case in out:
            editor.remove(case)
        left = [n for n in range(4) if n not in out]
        if not left:
            assert not GraceEditor.all_of(model)
            continue
        assert torch.equal(book_of(editor).values, book_of(whole).values[left])
        assert torch.equal(book_of(editor).keys, book_of(whole).keys[left])
        prompts = [f"sea and {word}" for word in ENDS]
        model(**ids_of(*prompts))
        assert book_of(editor).hits == {n: 1 for n in range(len(left))}


def test_other_settings_are_refused(mode: str) -> None:
    model, _, _ = edited("llama", mode, FACTS[:1], n_iter=2)
    for options in ({"eps": 0.2}, {"key_templates": ["{subject}"]}, {"whiten": True}):
        with pytest.raises(EditError, match=rf"can't be continued with {next(iter(options))}="):
            more(model, FACTS[1:], hparams_for("llama", mode, n_iter=2, **options))
