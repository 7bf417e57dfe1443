"""``eps: auto``: its three rules for radii, with a query function that maps each word to a point on a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.methods.shared.sample_sentences import Sentences, sample_sentences
from easyedit_lifelong.methods.shared.subject_keys.auto_radius import Neighbourhood
from tests.support.subjects import FACTS, OTHERS, codebook_of, edited, hparams_for, ids_of
from tests.support.tiny_models import build_model, build_tokenizer

POSITIONS = {
    "France": 0.0,
    "Peru": 10.0,
    "Rome": 20.0,
    "Hamlet": 30.0,  # the last of the subjects
    "sea": 1.0,
    "moon": 12.0,
    "bird": 24.0,
    "song": 37.0,
    "king": 100.0,
}
"""The position of each word on the line."""


def positions_of(rows: Sequence[list[int]]) -> list[Tensor]:
    words = [build_tokenizer().convert_ids_to_tokens(row) for row in rows]
    return [torch.tensor([[POSITIONS.get(word, 1000.0)] for word in row]) for row in words]


SENTENCES = Sentences(
    texts=["France king", "Peru king", "Rome king", "Hamlet king", "sea", "moon", "bird", "song"],
    subjects=[(name, f"{name} king") for name in ("France", "Peru", "Rome", "Hamlet")],
)
# The distance of each sentence to the nearest subject of another sentence: "France king" 10 (Peru), "Peru king" 10,
# "Rome king" 10, "Hamlet king" 10, "sea" 1 (France), "moon" 2 (Peru), "bird" 4 (Rome), "song" 7 (Hamlet).


def neighbourhood(rate: float, sentences: Sentences = SENTENCES, queries_of: Any = positions_of) -> Neighbourhood:
    return Neighbourhood(queries_of, build_tokenizer(), "euc", [], rate, sentences)


@pytest.mark.parametrize(
    ("rate", "expected"), [(1 / 7, 2.0), (2 / 7, 4.0), (3 / 7, 7.0), (0.5 / 7, 1.5), (0.999, 10.0)]
)
def test_the_auto_radius_fires_in_the_given_share_of_sentences(rate: float, expected: float) -> None:
    assert neighbourhood(rate).auto_radius == pytest.approx(expected)


def radius(key: list[float], subject: str, contexts: list[float], rate: float = 1 / 7) -> float:
    """Return the radius of a key with these vectors, if the subject's queries in the edit's contexts are these."""
    key_vectors, context_queries = (torch.tensor(positions).unsqueeze(1) for positions in (key, contexts))
    return neighbourhood(rate).radius(key_vectors, subject, context_queries)


def test_a_key_far_from_all_sentences_gets_the_auto_radius() -> None:
    assert radius([-100.0], "London", [-100.0]) == pytest.approx(2.0)


def test_a_radius_reaches_the_subject_in_the_edits_contexts() -> None:
    assert radius([-100.0], "London", [-100.0, -103.0, -101.0]) == pytest.approx(3.0)
    assert radius([-100.0, -103.5], "London", [-100.0, -103.0, -101.0]) == pytest.approx(2.0), (
        "a key vector of the edit is nearer"
    )


def test_a_radius_ends_half_way_to_the_nearest_sentence_without_the_subject() -> None:
    assert radius([3.0], "London", [3.0]) == pytest.approx(1.0), "the distance to 'sea' is 2"
    assert radius([3.0], "London", [3.0, 30.0]) == pytest.approx(1.0), "the edit's contexts are farther away"
    assert radius([-100.0, 3.0], "London", [-100.0]) == pytest.approx(1.0), "the second key vector is near 'sea'"
    assert radius([10.5], "Peru", [10.5]) == pytest.approx(0.75), "sentences about Peru do not count, 'moon' does"
    assert radius([10.5], "peru", [10.5]) == pytest.approx(0.75), "upper and lower case are equal"
    assert radius([10.5], "London", [10.5]) == pytest.approx(0.25)
    assert radius([1.0], "London", [1.0]) == 0.0


def test_rounded_cosine_distances_give_no_negative_radius() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(60, 700, generator=generator)

    def queries_of(rows: Sequence[list[int]]) -> list[Tensor]:
        return [vectors[torch.tensor(row)] for row in rows]

    word_neighbourhood = Neighbourhood(queries_of, build_tokenizer(), "cos", [], 0.01, SENTENCES)
    ids = build_tokenizer()("sea moon bird song")["input_ids"]
    radii = [word_neighbourhood.radius(vectors[n : n + 1], "London", vectors[n : n + 1]) for n in ids]
    assert all(0.0 <= radius < 1e-6 for radius in radii)


def test_the_sample_sentences_are_distinct_and_name_their_subjects() -> None:
    sentences = sample_sentences()
    assert len(sentences.texts) == len(set(sentences.texts)) > 500
    assert len(sentences.subjects) > 100
    assert sum(find_subject(prompt, subject) is not None for subject, prompt in sentences.subjects) > 100


# ------------------------------------------------------------------ edits


@pytest.fixture
def tiny_sample_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the sample sentences by some that consist of the tiny tokenizer's words."""
    texts = ["France and the sea", "Hamlet wrote", "Peru is far away", "old London", *OTHERS, "king in summer snow"]
    sentences = Sentences(texts, [("France", texts[0]), ("Hamlet", texts[1]), ("Peru", texts[2]), ("London", texts[3])])
    monkeypatch.setattr("easyedit_lifelong.methods.shared.subject_keys.auto_radius.sample_sentences", lambda: sentences)


@pytest.mark.usefixtures("tiny_sample_sentences")
def test_each_key_gets_its_radius_and_unrelated_prompts_keep_their_logits(family: str, mode: str) -> None:
    options: dict[str, Any] = {"eps": "auto", "false_fire_rate": 0.05, "deep": True, "n_iter": 5}
    options |= {"key_templates": ["blue sea {prompt}"], "context_templates": ["{subject} is"]}
    model, rollback, editor = edited(family, mode, **options)
    codebook = codebook_of(editor)
    radii = [result.detail["radius"] for result in rollback.results]
    decisions = [result.detail["decision"] for result in rollback.results]
    if "split" not in decisions:
        assert codebook.radii.tolist() == radii
    assert len(set(radii)) > 1
    assert min(radii) > 0
    for text in OTHERS:
        assert torch.equal(model(**ids_of(text)).logits, build_model(family)(**ids_of(text)).logits)
    # Single edits, and the same batch again, have the same radii.
    another_model, tokenizer, hparams = build_model(family), build_tokenizer(), hparams_for(family, mode, **options)
    single_radii = [
        apply_grace_to_model(another_model, tokenizer, [fact], hparams)[1].results[0].detail["radius"] for fact in FACTS
    ]
    assert single_radii == pytest.approx(radii, rel=1e-3, abs=1e-5)
    repeated = edited(family, mode, **options)[1].results
    assert [result.detail["radius"] for result in repeated] == radii


@pytest.mark.usefixtures("tiny_sample_sentences")
def test_removing_an_edit_that_split_a_key_restores_the_keys_automatic_radius() -> None:
    options: dict[str, Any] = {"eps": "auto", "false_fire_rate": 0.6, "deep": True, "n_iter": 2}
    facts = [FACTS[0], {**FACTS[0], "case_id": "near", "prompt": "the capital of old France is", "target_new": "Peru"}]
    first = edited("llama", "simple", facts[:1], **options)[1].results[0].detail["radius"]
    _, rollback, editor = edited("llama", "simple", facts, **options)
    assert rollback.results[1].detail["decision"] == "split"
    assert float(codebook_of(editor).radii[0]) < first
    editor.remove("near")
    assert codebook_of(editor).radii.tolist() == [first]
