"""Threads that share one edited model get the answers that a single thread gets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from easyedit_lifelong import GraceHyperParams, apply_grace_to_model
from easyedit_lifelong.evaluation.scorer import Scorer
from tests.conformance.observe import snapshot_of
from tests.support import thoroughness
from tests.support.saved_edits import METHODS
from tests.support.tiny_models import FAMILIES, build_model, build_tokenizer

THREADS = 4
ROUNDS = 36 if thoroughness.full else 1
"""With ``--full``, the threads make more than 5,000 passes and generations."""
PROMPTS = [
    "the capital of France is",
    "Hamlet wrote old song",
    "blue",
    "Shakespeare plays piano and violin",
    "where was the old river born",
]


def generated(model: Any) -> list[str]:
    return [Scorer(build_tokenizer()).generate(model, [prompt], 4)[0] for prompt in PROMPTS]


def forced(model: Any) -> list[Any]:
    return Scorer(build_tokenizer()).forced(model, [(prompt, "London moon") for prompt in PROMPTS])


def padded_logits(model: Any, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model(**build_tokenizer()(prompts, return_tensors="pt", padding=True)).logits


@pytest.mark.parametrize("method", ["GRACE", "CoachHook", "late"])
def test_passes_and_generations_of_several_threads_do_not_mix(method: str) -> None:
    model = build_model("llama")
    METHODS[method](model, "llama")
    batches = [PROMPTS[:1], PROMPTS[1:4], PROMPTS[2:], PROMPTS]
    expected_logits = [padded_logits(model, batch) for batch in batches]
    expected_texts = generated(model)

    def use_model(thread: int) -> bool:
        for number in range(thread, thread + 2 * ROUNDS):
            batch = number % len(batches)
            assert torch.equal(padded_logits(model, batches[batch]), expected_logits[batch])
            assert generated(model) == expected_texts
        return True

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(use_model, range(THREADS))) == [True] * THREADS


def test_an_edit_in_one_thread_does_not_disturb_generations_in_another() -> None:
    """The edit is about none of the prompts, so their answers are the same before, during and after it."""
    model, tokenizer = build_model("llama"), build_tokenizer()
    METHODS["GRACE"](model, "llama")
    expected = generated(model)
    hparams = GraceHyperParams(model_name="tiny", inner_params=[FAMILIES["llama"][1]], n_iter=8, eps=3.0)

    def edit_and_roll_back() -> None:
        request = {"prompt": "language spoken in Peru is not snow", "target_new": "London"}
        for _ in range(6 * ROUNDS):
            apply_grace_to_model(model, tokenizer, [request], hparams)[1]()

    with ThreadPoolExecutor(2) as pool:
        editing = pool.submit(edit_and_roll_back)
        n_checked = 0
        while not editing.done() or not n_checked:
            assert generated(model) == expected
            n_checked += 1
        editing.result()


@pytest.mark.parametrize("score", [generated, forced])
def test_scoring_in_several_threads_leaves_the_model_as_it_was(score: Callable[[Any], Any]) -> None:
    """The second thread begins in a pass of the first one, and ends after it, if it can."""
    model = build_model("llama").train()
    expected, config, modules = score(model), model.generation_config, snapshot_of(model).modules
    first_thread = list[int]()
    first_began, second_began, first_ended = threading.Event(), threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        if threading.get_ident() in first_thread:
            first_began.set()
            second_began.wait(1)
            second_began.set()
        else:
            second_began.set()
            first_ended.wait(1)

    def score_first() -> Any:
        first_thread.append(threading.get_ident())
        try:
            return score(model)
        finally:
            first_ended.set()

    def score_second() -> Any:
        first_began.wait(60)
        return score(model)

    with model.lm_head.register_forward_pre_hook(wait), ThreadPoolExecutor(2) as pool:
        results = [pool.submit(score_first), pool.submit(score_second)]
        assert [result.result() for result in results] == [expected, expected]
    assert model.generation_config is config
    assert snapshot_of(model).modules == modules
