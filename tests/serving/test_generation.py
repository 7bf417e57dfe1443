"""Answers generated in one batch: each depends on its own prompt, settings and seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from easyedit_lifelong import apply_grace_to_model
from easyedit_lifelong.evaluation.scorer import Scorer
from easyedit_lifelong.serving.generation import Row, Sampling, sample
from easyedit_lifelong.serving.static_batch import generate_rows
from tests.support.served_models import OTHER_PROMPTS, PROMPTS, grace, requests
from tests.support.tiny_models import build_model, build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny model with three edits."""
    edited = build_model("llama")
    apply_grace_to_model(edited, TOKENIZER, requests(0, 1, 2), grace())
    return edited


def row(prompt: str, *, on_text: Any = None, **settings: Any) -> Row:
    return Row(TOKENIZER(prompt)["input_ids"], Sampling(**settings), on_text)


def answers(model: Any, *rows: Row) -> list[str]:
    generate_rows(model, TOKENIZER, rows)
    return [row.text for row in rows]


def test_greedy_answers_are_those_of_generate(model: Any) -> None:
    prompts = [*PROMPTS, *OTHER_PROMPTS]
    expected = Scorer(TOKENIZER).generate(model, prompts, 6)
    assert answers(model, *(row(prompt, max_tokens=6) for prompt in prompts)) == expected
    assert len(set(expected)) > 3


def test_rows_of_any_settings_do_not_influence_each_other(model: Any) -> None:
    settings: list[dict[str, Any]] = [
        {"max_tokens": 2},
        {"max_tokens": 9, "temperature": 1.0, "seed": 1},
        {"max_tokens": 5, "temperature": 0.7, "top_p": 0.8, "seed": 2},
        {"max_tokens": 7, "stop": ("winter", "of")},
        {"max_tokens": 4, "logprobs": 2},
    ]
    rows = [row(prompt, **values) for prompt in PROMPTS for values in settings]
    together = answers(model, *rows)
    alone = [answers(model, row(prompt, **values))[0] for prompt in PROMPTS for values in settings]
    assert together == alone
    assert all(len(row.tokens) <= row.sampling.max_tokens for row in rows)
    assert {row.finish_reason for row in rows} == {"stop", "length"}


def test_a_seed_determines_sampled_text(model: Any) -> None:
    def texts(seed: int | None) -> list[str]:
        return answers(model, *(row(p, max_tokens=8, temperature=1.5, seed=seed) for p in OTHER_PROMPTS))

    assert texts(5) == texts(5)
    assert len({tuple(texts(seed)) for seed in (5, 6, None, None)}) > 2


def test_a_stop_text_ends_the_answer_before_it(model: Any) -> None:
    (full,) = answers(model, row(PROMPTS[0], max_tokens=8))
    words = full.split()
    stopped = row(PROMPTS[0], max_tokens=8, stop=(words[2],))
    assert answers(model, stopped) == [full[: full.index(words[2])]]
    assert stopped.finish_reason == "stop"


def test_text_is_passed_on_while_it_is_generated(model: Any) -> None:
    pieces: list[str] = []
    streamed = row(PROMPTS[0], max_tokens=6, on_text=pieces.append)
    (text,) = answers(model, streamed)
    assert "".join(pieces) == text
    assert len(pieces) > 2


def test_a_cancelled_row_ends_at_once_and_the_others_go_to_their_end(model: Any) -> None:
    cancelled, other = row(PROMPTS[0], max_tokens=30), row(PROMPTS[0], max_tokens=6)
    cancelled.on_text = lambda _: setattr(cancelled, "cancelled", True)
    expected = answers(model, row(PROMPTS[0], max_tokens=6))
    assert answers(model, cancelled, other)[1:] == expected
    assert cancelled.finish_reason == "cancelled"
    assert len(cancelled.tokens) == 1


def test_log_probabilities_are_those_of_one_pass_over_the_answer(model: Any) -> None:
    scored, padding = row(PROMPTS[2], max_tokens=3, logprobs=2), row(OTHER_PROMPTS[1], max_tokens=3)
    answers(model, scored, padding)
    base = build_model("llama")
    unedited = row(OTHER_PROMPTS[1], max_tokens=3, logprobs=2, temperature=0.5, seed=1)
    answers(base, unedited)
    with torch.no_grad():
        ids = torch.tensor([[*unedited.prompt, *unedited.tokens]])
        expected = base(ids).logits.log_softmax(-1)[0, len(unedited.prompt) - 1 : -1]
    for entry, distribution in zip(unedited.logprobs, expected, strict=True):
        assert entry.logprob == pytest.approx(float(distribution[entry.token]), abs=1e-4)
        values, tokens = distribution.topk(2)
        assert [token for token, _ in entry.top] == tokens.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert [entry.token for entry in scored.logprobs] == scored.tokens


def test_sampling_follows_the_distribution_and_top_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    expected = torch.softmax(logits.double() / 0.8, 0)
    kept = expected[:2] / expected[:2].sum()
    random, counts = torch.Generator().manual_seed(0), torch.zeros(5)
    assert 0.5 < float(expected[0]) < 0.8 < float(expected[:2].sum())
    for _ in range(2000):
        counts[sample(logits, Sampling(temperature=0.8, top_p=0.8), random)] += 1
    assert counts[2:].sum() == 0
    assert counts[0] / 2000 == pytest.approx(float(kept[0]), abs=0.04)
    for _ in range(20):
        assert sample(logits, Sampling(temperature=0.8, top_p=0.0), random) == 0
        assert sample(logits, Sampling(temperature=1e-320), random) == 0
