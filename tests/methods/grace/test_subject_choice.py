"""Which edit answers at the prompt's end if the prompt names the subjects of several edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.subject.matched_keys import matched_keys, merge_matches
from easyedit_lifelong.models.prompt_positions import prompt_lengths
from tests.support.subjects import FACTS, PROMPTS, SUBJECT_LAST_WORDS, codebook_of, edited, ids_of, replacing_outputs
from tests.support.thoroughness import default_cases, examples
from tests.support.tiny_models import build_model, build_tokenizer

PROMPTS_WITH_SEVERAL_SUBJECTS = [
    "France and Hamlet is",
    "moon Hamlet France piano is from",
    "old piano and old moon",
    "France moon France when summer is",
    "the capital of moon is",
]


def inputs_of(model: Any, path: str, text: str) -> Tensor:
    """Return a layer's input for a text in an unedited model, in float64."""
    inputs: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: inputs.append(args[0][0]))
    model(**ids_of(text))
    handle.remove()
    return inputs[0].detach().double()


def expected_key(family: str, editor: Any, text: str, gate_eps: float | None) -> int:
    """Return the key for which key distance and gate distance together are smallest, in float64; -1 if none matches."""
    model, codebook = build_model(family), codebook_of(editor)
    key_layer, answer_layer = editor.path, editor.hparams.answer_layer.replace("[", ".").replace("]", "")
    queries, gate = inputs_of(model, key_layer, text), inputs_of(model, answer_layer, text)[-1]
    best_key, smallest = -1, (1e9, 0)
    for key in range(len(codebook)):
        key_vectors = codebook.keys[key].double().view(codebook.vectors_per_key, -1)
        distances = (1 - F.cosine_similarity(queries.unsqueeze(1), key_vectors, dim=2)).amin(dim=1)
        nearness = (distances - 4e-6).clamp_min(0).min() / codebook.radii[key]
        total = nearness
        if gate_eps is not None:
            gate_distance = 1 - F.cosine_similarity(gate, codebook.gates[key].double(), dim=0)
            total = nearness + gate_distance / gate_eps if gate_distance <= gate_eps else torch.tensor(float("inf"))
        last_token = int((distances <= distances.min() + 4e-6).nonzero().max())
        if nearness <= 1 and (float(total), -last_token) < smallest:
            best_key, smallest = key, (float(total), -last_token)
    return best_key


@pytest.mark.parametrize("gate_eps", default_cases([None, 0.9, 1.99], None, 0.9))
@pytest.mark.parametrize("deep", [False, True])
def test_the_edit_with_the_nearest_key_and_gate_answers(family: str, gate_eps: float | None, deep: bool) -> None:
    options: dict[str, Any] = {"gate_eps": gate_eps, "deep": deep, "eps": 0.6, "key_templates": ["blue {subject}"]}
    model, _, editor = edited(family, "late", n_iter=3, **options)
    codebook = codebook_of(editor)
    path = editor.hparams.answer_layer.replace("[", ".").replace("]", "")
    for text in [*PROMPTS_WITH_SEVERAL_SUBJECTS, *PROMPTS]:
        key = expected_key(family, editor, text, gate_eps)
        unedited = build_model(family)
        with replacing_outputs(
            unedited.get_submodule(path), {} if key < 0 else {len(text.split()) - 1: codebook.values[key]}
        ):
            expected = unedited(**ids_of(text)).logits
        with prompt_lengths(model, [len(text.split())]):
            logits = model(**ids_of(text)).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_subjects_in_different_prefill_chunks_are_compared(family: str, chunk_size: int) -> None:
    model, _, _ = edited(family, "late", n_iter=3, eps=0.6, gate_eps=1.99)
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    for rows in (PROMPTS_WITH_SEVERAL_SUBJECTS, *([text] for text in PROMPTS_WITH_SEVERAL_SUBJECTS)):
        batch = build_tokenizer()(rows, return_tensors="pt", padding=True)
        unchunked = model.generate(**batch, **options)
        assert torch.equal(model.generate(**batch, prefill_chunk_size=chunk_size, **options), unchunked)


@pytest.mark.parametrize("gate_eps", [None, 1.99])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_two_subjects_with_equal_first_words_the_longer_answers(
    family: str, gate_eps: float | None, order: list[int]
) -> None:
    """Both keys are at distance zero, as each is in the prompt of its edit."""
    facts = [
        {"case_id": "city", "prompt": "Rome city is", "subject": "Rome", "target_new": "song"},
        {"case_id": "river", "prompt": "Rome river is", "subject": "Rome river", "target_new": "bird"},
    ]
    model, _, _ = edited(family, "late", [facts[n] for n in order], deep=True, gate_eps=gate_eps)
    prompts = [fact["prompt"] for fact in facts]
    for rows in ([prompts[0]], [prompts[1]], prompts, [*prompts, "blue " * 9]):
        outputs = Scorer(build_tokenizer()).generate(model, rows, 1)
        expected = [next((fact["target_new"] for fact in facts if fact["prompt"] == row), None) for row in rows]
        assert [output for output, target in zip(outputs, expected, strict=True) if target] == [
            target for target in expected if target
        ]


nearness = st.sampled_from([0.0, 0.25, 0.5, 1.0, float("inf")])
rows = st.integers(1, 6).flatmap(
    lambda keys: st.lists(st.lists(nearness, min_size=keys, max_size=keys).filter(lambda r: min(r) <= 1), min_size=2)
)


@examples(200)
@given(rows, st.data())
def test_merged_matches_of_two_parts_equal_those_of_the_full_prompt(
    tokens: list[list[float]], data: st.DataObject
) -> None:
    nearness_of_keys, columns = torch.tensor(tokens), torch.arange(5, 5 + len(tokens))
    full, cut = matched_keys(nearness_of_keys, columns), data.draw(st.integers(1, len(tokens) - 1))
    merged = merge_matches(
        matched_keys(nearness_of_keys[:cut], columns[:cut]), matched_keys(nearness_of_keys[cut:], columns[cut:])
    )
    assert all(torch.equal(*parts) for parts in zip(merged, full, strict=True))
    for key, nearest, column in zip(*(part.tolist() for part in full), strict=True):
        assert nearest == min(row[key] for row in tokens) <= 1
        assert column == max(5 + n for n, row in enumerate(tokens) if row[key] == nearest)


@pytest.mark.parametrize("mode", ["simple", "late"])
def test_teacher_forced_scores_equal_those_of_decoding_token_by_token(family: str, mode: str) -> None:
    """In the late mode, answer tokens after the prompt's end are not looked up, also with teacher forcing."""
    model, _, _ = edited(family, mode, n_iter=60)
    scorer = Scorer(build_tokenizer())
    pairs = [
        (fact["prompt"], f"{fact['target_new']} {SUBJECT_LAST_WORDS[(n + 1) % 4]} song") for n, fact in enumerate(FACTS)
    ]
    batch_scores = scorer.forced(model, pairs)
    for pair, score in zip(pairs, batch_scores, strict=True):
        (single,) = scorer.forced(model, [pair])
        assert single.accuracy == score.accuracy
        prompt, answer = (build_tokenizer()(text, return_tensors="pt")["input_ids"] for text in pair)
        batch = {"input_ids": prompt, "use_cache": True}
        correct = []
        for token in answer[0]:
            output = model(**batch)
            correct.append(int(output.logits[0, -1].argmax()) == int(token))
            batch = {"input_ids": token.view(1, 1), "past_key_values": output.past_key_values, "use_cache": True}
        assert score.accuracy == pytest.approx(sum(correct) / len(correct))
