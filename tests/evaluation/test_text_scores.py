"""The fluency of generated text and the perplexity of a held-out text equal values computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.evaluation.text_scores import HeldOutText, ngram_entropy, perplexity, read_text
from tests.support.tiny_models import WORDS, build_model, build_tokenizer, with_beginning_token


def test_entropy_equals_a_value_computed_by_hand() -> None:
    """a b a b: bigrams ab, ba, ab: H = 0.918; trigrams aba, bab: H = 1; (2/3 · 0.918 + 4/3 · 1) / 2."""
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * bigrams + 4 / 3) / 2)


def test_a_repeated_word_has_no_entropy() -> None:
    assert ngram_entropy("song " * 50) == 0.0
    varied = ngram_entropy(" ".join(WORDS))
    assert varied is not None and varied > 4
    assert ngram_entropy("two words") is None
    assert ngram_entropy("") is None


def test_punctuation_marks_count_as_words() -> None:
    assert ngram_entropy("a, b, a, b,") == ngram_entropy("a , b , a , b ,")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_perplexity_equals_that_of_single_tokens(family: str, tokenizer: Any) -> None:
    model, text = build_model(family), " ".join(WORDS[:20])
    held_out = HeldOutText(text, tokenizer, model, window=8)
    ids, total, n = tokenizer(text)["input_ids"], 0.0, 0
    for begin in range(0, len(ids), 8):
        window = ids[begin : begin + 8]
        for end in range(1, len(window)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([window[:end]])).logits[0, -1].double()
            total -= float(logits.log_softmax(dim=-1)[window[end]])
            n += 1
    nll = held_out.nll(model)
    assert [len(row) for row in nll] == [7, 7, 3]
    assert perplexity(nll) == pytest.approx(math.exp(total / n), rel=1e-3)


def test_windows_begin_with_the_beginning_of_text_token_if_the_tokenizer_adds_one() -> None:
    tokenizer, model = with_beginning_token(build_tokenizer()), build_model("llama")
    text = " ".join(WORDS[:20])
    (bos, *ids), total, n = tokenizer(text)["input_ids"], 0.0, 0
    assert bos == tokenizer.bos_token_id
    for begin in range(0, len(ids), 8):
        window = [bos, *ids[begin : begin + 8]]
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([window])).logits[0].double().log_softmax(dim=-1)
        total -= sum(float(log_p[column - 1, window[column]]) for column in range(2, len(window)))
        n += len(window) - 2
    nll = HeldOutText(text, tokenizer, model, window=8).nll(model)
    assert [len(row) for row in nll] == [7, 7, 3]
    assert perplexity(nll) == pytest.approx(math.exp(total / n), rel=1e-3)
    longest = HeldOutText(" ".join(WORDS * 20), tokenizer, model, window=1000).rows
    assert len(longest[0]) == 63, "a window exceeds the model's context"


def test_windows_and_the_models_context_limit_what_is_read(tokenizer: Any) -> None:
    model = build_model("gpt2")
    text = " ".join(WORDS * 20)
    assert [len(row) for row in HeldOutText(text, tokenizer, model, window=10, windows=3).rows] == [10, 10, 10]
    longest = HeldOutText(text, tokenizer, model, window=1000).rows
    assert {len(row) for row in longest[:-1]} == {64}, "windows are longer or shorter than the model's context"


def test_perplexity_stays_finite_for_nan_and_huge_losses() -> None:
    assert perplexity([[float("nan")]]) == perplexity([[1e9]]) == pytest.approx(5.18e21, rel=0.01)
    assert perplexity([]) is None


def test_unusable_texts_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"none\.txt: can't be read: No such file"):
        read_text(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        read_text(tmp_path / "empty.txt")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"odd\.txt: is not UTF-8 text"):
        read_text(tmp_path / "odd.txt")
    with pytest.raises(DataError, match="fewer than two tokens"):
        HeldOutText("song", tokenizer, build_model("gpt2"))
    (tmp_path / "good.txt").write_text("Łódź")
    assert read_text(tmp_path / "good.txt") == "Łódź"
