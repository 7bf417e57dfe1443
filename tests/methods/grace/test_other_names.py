"""Other names of a subject: an edit is found by its aliases, and without the words in brackets at the subject's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong import (
    apply_grace_to_model,
    explain,
    inspect_edits,
    load_edits,
    merge_edits,
    rollback_case,
    save_edits,
)
from easyedit_lifelong.data.request import as_requests
from easyedit_lifelong.errors import EditError
from easyedit_lifelong.methods.grace.codebook.codebook import Codebook
from easyedit_lifelong.methods.grace.editor import GraceEditor
from easyedit_lifelong.methods.grace.store import GraceStore
from tests.methods.grace.test_request_texts import character_tokenizer, request_texts
from tests.support import subject_edits
from tests.support.stored_grace_edits import assert_same_edits
from tests.support.subjects import answer, codebook_of, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer, state_of

FACT: dict[str, Any] = {
    "case_id": 0,
    "prompt": "the capital of France is",
    "subject": "France",
    "target_new": "Rome",
    "aliases": ["Peru", "old king"],
}
OTHER: dict[str, Any] = {"case_id": 1, "prompt": "old moon made", "subject": "moon", "target_new": "cheese"}
ALIAS_PROMPTS = ["the capital of Peru is", "the capital of old king is"]


@pytest.mark.parametrize(("mode", "named_eps"), [("simple", None), ("late", None), ("late", 0.4)])
def test_an_edit_answers_by_each_of_its_names(mode: str, named_eps: float | None) -> None:
    model, _, editor = edited("llama", mode, [FACT, OTHER], named_eps=named_eps)
    without, _, _ = edited("llama", mode, [{**FACT, "aliases": []}, OTHER], named_eps=named_eps)
    unedited = build_model("llama")
    for prompt in ALIAS_PROMPTS:
        assert answer(model, prompt) == "Rome"
        assert torch.equal(without(**ids_of(prompt)).logits, unedited(**ids_of(prompt)).logits)
        (layer,) = explain(model, build_tokenizer(), prompt).grace
        assert layer.answered_by == 0
    assert [answer(model, fact["prompt"]) for fact in (FACT, OTHER)] == ["Rome", "cheese"]
    assert len(codebook_of(editor)) == 4
    other = "the capital of Hamlet is"
    assert torch.equal(model(**ids_of(other)).logits, unedited(**ids_of(other)).logits)


def test_the_words_of_an_alias_name_the_subject() -> None:
    """The key of the first block is that of the word "king" alone: the words tell "old king" from "Hamlet king"."""
    model, _, editor = edited("llama", "late", [FACT], named_eps=0.4)
    unedited, other = build_model("llama"), "the capital of Hamlet king is"
    assert torch.equal(model(**ids_of(other)).logits, unedited(**ids_of(other)).logits)
    without_words, _, _ = edited("llama", "late", [FACT])
    assert not torch.equal(without_words(**ids_of(other)).logits, unedited(**ids_of(other)).logits)
    assert [editor.subjects_of_key(key) for key in range(3)] == [["France"], ["Peru"], ["old king"]]


def test_keys_and_contexts_of_another_name_have_it_in_the_place_of_the_subject() -> None:
    tokenizer = character_tokenizer()
    fact = {
        "prompt": "Who made Rhythm 4 (1974), then?",
        "subject": "Rhythm 4 (1974)",
        "target_new": "x",
        "aliases": "R",
    }
    encoded = request_texts(
        tokenizer, fact, key_templates=["So, {prompt}", "{subject}"], context_templates=["a {subject} b"]
    )
    rows = [
        (name.name, *map(tokenizer.batch_decode, (name.key_rows, name.context_rows))) for name in encoded.other_names
    ]
    assert rows == [
        ("Rhythm 4", ["Who made Rhythm 4", "So, Who made Rhythm 4", "Rhythm 4"], ["Who made Rhythm 4", "a Rhythm 4"]),
        ("R", ["Who made R", "So, Who made R", "R"], ["Who made R", "a R"]),
    ]
    assert len(encoded.texts) == 2, "the value is trained on other texts than those of the subject"
    assert request_texts(tokenizer, {"prompt": "Is Rome old?", "subject": "Rome", "target_new": "x"}).other_names == []


def test_another_name_near_the_edits_own_key_has_a_key_of_its_own() -> None:
    """At the first block, the key of "green moon" is that of "moon"."""
    _, rollback, editor = edited("llama", "late", [{**OTHER, "aliases": ["green moon"]}], named_eps=0.4)
    assert [editor.subjects_of_key(key) for key in range(2)] == [["moon"], ["green moon"]]
    assert rollback.results[0].detail["n_keys"] == 2


def test_a_later_edit_of_an_alias_answers_in_place_of_the_earlier_one() -> None:
    later = {"case_id": 2, "prompt": ALIAS_PROMPTS[0], "subject": "Peru", "target_new": "Berlin"}
    model, rollback, _ = edited("llama", "simple", [FACT, later])
    assert rollback.results[1].detail["decision"] == "supersede"
    assert [answer(model, prompt) for prompt in (ALIAS_PROMPTS[0], FACT["prompt"])] == ["Berlin", "Rome"]
    rollback_case(model, 2)
    assert answer(model, ALIAS_PROMPTS[0]) == "Rome"


def test_function_words_are_no_aliases(caplog: pytest.LogCaptureFixture) -> None:
    _, _, editor = edited("llama", "late", [{**FACT, "aliases": ["the", "Peru"]}], named_eps=0.4)
    assert editor.subjects_of_key(1) == ["Peru"] and len(codebook_of(editor)) == 2
    assert "(case 0), field 'aliases': function words" in caplog.text and "left out: 'the'" in caplog.text
    assert editor.records[0].aliases == ("Peru",)


def requests_with_aliases() -> list[dict[str, Any]]:
    """Return requests some of which have aliases; some of these are the subjects of other requests."""
    aliases = {0: ["Berlin", "old city"], 1: ["moon"], 4: ["Hamlet"], 7: ["king", "sea"]}
    requests = enumerate(subject_edits.REQUESTS)
    return [{**request, "aliases": aliases[n]} if n in aliases else dict(request) for n, request in requests]


def editor_on(model: Any, mode: str) -> GraceEditor:
    return GraceEditor.on(model, build_tokenizer(), subject_edits.hparams(mode, train_batch=1))


@pytest.fixture(scope="module", params=["subject", "late", "late-ungated"])
def whole(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A mode, and a model with all edits."""
    return request.param, subject_edits.edited(request.param, requests_with_aliases(), train_batch=1)


def test_edits_of_one_batch_have_the_keys_of_single_edits(whole: tuple[str, Any]) -> None:
    mode, model = whole
    batch = subject_edits.edited(mode, requests_with_aliases(), train_batch=16)
    editors = [next(iter(GraceEditor.all_of(either).values())) for either in (model, batch)]
    for editor in editors:
        assert [len(change.other_names) for change in editor.changes] == [2, 1, 0, 0, 1, 0, 0, 2, 0]
    single, together = map(codebook_of, editors)
    assert single.labels == together.labels
    for name in ("keys", "radii"):
        torch.testing.assert_close(getattr(single, name), getattr(together, name), rtol=1e-3, atol=1e-3)


def test_edits_are_saved_and_loaded_and_resumed_bitwise(whole: tuple[str, Any]) -> None:
    mode, model = whole
    store, editor = GraceStore(), editor_on(model, mode)
    steps = list(store.steps(model, 0))
    for count in (5, len(steps)):
        loaded = build_model("llama")
        store.attach(loaded, build_tokenizer(), store.join(steps[:count], "state"), "state")
        resumed = editor_on(loaded, mode)
        resumed.edit(as_requests(requests_with_aliases()[count:]))
        assert_same_edits(resumed, editor)
        assert [record.aliases for record in resumed.records] == [record.aliases for record in editor.records]
        assert [len(change.other_names) for change in resumed.changes] == [2, 1, 0, 0, 1, 0, 0, 2, 0]
        for prompt in subject_edits.PROMPTS:
            assert torch.equal(loaded(**ids_of(prompt)).logits, model(**ids_of(prompt)).logits)
    resumed.undo_to(0)
    assert not state_of(loaded).keys() - state_of(build_model("llama")).keys()


def test_removal_leaves_the_edits_that_the_others_make(whole: tuple[str, Any], tmp_path: Path) -> None:
    mode, model = whole
    store = GraceStore()
    part = store.join(list(store.steps(model, 0)), "state")
    for removed in ("c0", "c4", "c7"):
        loaded = build_model("llama")
        store.attach(loaded, build_tokenizer(), part, "state")
        rollback_case(loaded, removed)
        rest = [request for request in requests_with_aliases() if request["case_id"] != removed]
        expected = codebook_of(editor_on(subject_edits.edited(mode, rest, train_batch=1), mode))
        codebook = codebook_of(editor_on(loaded, mode))
        assert codebook.labels == expected.labels
        for name in ("keys", "radii"):
            assert torch.equal(getattr(codebook, name), getattr(expected, name))


def test_an_edit_whose_other_names_fail_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, editor = edited("llama", "late", [OTHER])
    before = state_of(model)

    def fail(*_: Any) -> None:
        raise EditError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Codebook, "add_other_names", fail)
        with pytest.raises(EditError, match="no"):
            apply_grace_to_model(model, build_tokenizer(), [FACT], hparams_for("llama", "late"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(model).items())
    assert editor.case_ids == [1]


def test_saved_edits_show_their_aliases_and_merge(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model, _, _ = edited("llama", "late", [FACT], named_eps=0.4)
    for prompt in ALIAS_PROMPTS:
        model(**ids_of(prompt))
    save_edits(model, tmp_path / "a")
    (part,) = inspect_edits(tmp_path / "a").parts
    (entry,) = part.edits
    assert entry["aliases"] == ["Peru", "old king"]
    assert entry["keys_of_other_names"] == [1, 2]
    assert entry["neighbour"] is None, "the neighbour is a key of the same edit"
    assert part.near == []
    other, _, _ = edited("llama", "late", [OTHER], named_eps=0.4)
    save_edits(other, tmp_path / "b")
    for number, order in enumerate((["a", "b"], ["b", "a"])):
        merge_edits([tmp_path / name for name in order], tmp_path / f"merged-{number}")
        loaded = build_model("llama")
        load_edits(loaded, tmp_path / f"merged-{number}", tokenizer)
        codebook = codebook_of(next(iter(GraceEditor.all_of(loaded).values())))
        offset = order.index("a")
        assert [codebook.hits[key] for key in range(4)] == ([0, 1, 1, 0] if offset == 0 else [0, 0, 1, 1])
        for prompt in (*ALIAS_PROMPTS, FACT["prompt"]):
            assert answer(loaded, prompt) == "Rome"
        assert answer(loaded, OTHER["prompt"]) == "cheese"
