"""Which of several edits answers at a prompt's last token, where more than one subject is in the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.methods.grace.subject.subject_layer import _matched_keys, _merge_matches
from tests.support.subjects import ENDS, FACTS, PROMPTS, book_of, edited, ids_of, putting
from tests.support.thoroughness import default_cases, examples
from tests.support.tiny_models import build_model, build_tokenizer

SEVERAL = [
    "France and Hamlet is",
    "moon Hamlet France piano is from",
    "old piano and old moon",
    "France moon France when summer is",
    "the capital of moon is",
]


def inputs_of(model: Any, path: str, text: str) -> Tensor:
    """Return what a layer gets for a text, without edits."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    model(**ids_of(text))
    handle.remove()
    return seen[0].detach().double()


def chosen(family: str, editor: Any, text: str, gate_eps: float | None) -> int:
    """Return the key that both looks together come nearest to, in float64; -1 if none."""
    model, book = build_model(family), book_of(editor)
    finding, answering = editor.path, editor.hparams.answer_layer.replace("[", ".").replace("]", "")
    queries, gate = inputs_of(model, finding, text), inputs_of(model, answering, text)[-1]
    best, least = -1, (1e9, 0)
    for key in range(len(book)):
        views = book.keys[key].double().view(book.views, -1)
        distances = (1 - F.cosine_similarity(queries.unsqueeze(1), views, dim=2)).amin(dim=1)
        near = (distances - 4e-6).clamp_min(0).min() / book.radii[key]
        total = near
        if gate_eps is not None:
            apart = 1 - F.cosine_similarity(gate, book.gates[key].double(), dim=0)
            total = near + apart / gate_eps if apart <= gate_eps else torch.tensor(float("inf"))
        last = int((distances <= distances.min() + 4e-6).nonzero().max())
        if near <= 1 and (float(total), -last) < least:
            best, least = key, (float(total), -last)
    return best


@pytest.mark.parametrize("gate_eps", default_cases([None, 0.9, 1.99], None, 0.9))
@pytest.mark.parametrize("deep", [False, True])
def test_the_nearest_in_both_looks_answers(family: str, gate_eps: float | None, deep: bool) -> None:
    options: dict[str, Any] = {"gate_eps": gate_eps, "deep": deep, "eps": 0.6, "key_templates": ["blue {subject}"]}
    model, _, editor = edited(family, "late", n_iter=3, **options)
    book = book_of(editor)
    path = editor.hparams.answer_layer.replace("[", ".").replace("]", "")
    for text in [*SEVERAL, *PROMPTS]:
        key = chosen(family, editor, text, gate_eps)
        fresh = build_model(family)
        with putting(fresh.get_submodule(path), {} if key < 0 else {len(text.split()) - 1: book.values[key]}):
            expected = fresh(**ids_of(text)).logits
        torch.testing.assert_close(model(**ids_of(text)).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_subjects_in_different_chunks_of_a_prompt_are_weighed_together(family: str, size: int) -> None:
    model, _, _ = edited(family, "late", n_iter=3, eps=0.6, gate_eps=1.99)
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    for rows in (SEVERAL, *([text] for text in SEVERAL)):
        batch = build_tokenizer()(rows, return_tensors="pt", padding=True)
        whole = model.generate(**batch, **options)
        assert torch.equal(model.generate(**batch, prefill_chunk_size=size, **options), whole)


@pytest.mark.parametrize("gate_eps", [None, 1.99])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_where_one_subject_begins_another_the_longer_answers(
    family: str, gate_eps: float | None, order: list[int]
) -> None:
    """Both are met just as in their own prompts."""
    facts = [
        {"case_id": "city", "prompt": "Rome city is", "subject": "Rome", "target_new": "song"},
        {"case_id": "river", "prompt": "Rome river is", "subject": "Rome river", "target_new": "bird"},
    ]
    model, _, _ = edited(family, "late", [facts[n] for n in order], deep=True, gate_eps=gate_eps)
    prompts = [fact["prompt"] for fact in facts]
    for rows in ([prompts[0]], [prompts[1]], prompts, [*prompts, "blue " * 9]):
        said = Scorer(build_tokenizer()).generate(model, rows, 1)
        expected = [next((f["target_new"] for f in facts if f["prompt"] == row), None) for row in rows]
        assert [word for word, told in zip(said, expected, strict=True) if told] == [told for told in expected if told]


nearness = st.sampled_from([0.0, 0.25, 0.5, 1.0, float("inf")])
rows = st.integers(1, 6).flatmap(
    lambda keys: st.lists(st.lists(nearness, min_size=keys, max_size=keys).filter(lambda r: min(r) <= 1), min_size=2)
)


@examples(200)
@given(rows, st.data())
def test_a_prompt_in_two_parts_reaches_what_the_whole_reaches(tokens: list[list[float]], data: st.DataObject) -> None:
    told, columns = torch.tensor(tokens), torch.arange(5, 5 + len(tokens))
    whole, cut = _matched_keys(told, columns), data.draw(st.integers(1, len(tokens) - 1))
    joined = _merge_matches(_matched_keys(told[:cut], columns[:cut]), _matched_keys(told[cut:], columns[cut:]))
    assert all(torch.equal(one, other) for one, other in zip(whole, joined, strict=True))
    for key, near, column in zip(*(part.tolist() for part in whole), strict=True):
        assert near == min(row[key] for row in tokens) <= 1
        assert column == max(5 + n for n, row in enumerate(tokens) if row[key] == near)


@pytest.mark.parametrize("mode", ["simple", "late"])
def test_scores_are_those_of_generation(family: str, mode: str) -> None:
    """Teacher forcing says where prompts end; the answers read behind them aren't looked up in the late mode."""
    model, _, _ = edited(family, mode, n_iter=60)
    scorer = Scorer(build_tokenizer())
    pairs = [(fact["prompt"], f"{fact['target_new']} {ENDS[(n + 1) % 4]} song") for n, fact in enumerate(FACTS)]
    together = scorer.forced(model, pairs)
    for pair, score in zip(pairs, together, strict=True):
        (alone,) = scorer.forced(model, [pair])
        assert alone.accuracy == score.accuracy
        prompt, answer = (build_tokenizer()(text, return_tensors="pt")["input_ids"] for text in pair)
        batch = {"input_ids": prompt, "use_cache": True}
        said = []
        for token in answer[0]:
            out = model(**batch)
            said.append(int(out.logits[0, -1].argmax()) == int(token))
            batch = {"input_ids": token.view(1, 1), "past_key_values": out.past_key_values, "use_cache": True}
        assert score.accuracy == pytest.approx(sum(said) / len(said))
