"""A text that begins with an expected answer is the one that the model generates, in fewer passes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from easyedit_lifelong.models.expected_answer import text_with_answer
from easyedit_lifelong.models.row_cache import can_cache_rows
from easyedit_lifelong.serving.generation import Row, Sampling
from easyedit_lifelong.serving.static_batch import generate_rows
from tests.serving.test_mixed_versions import HPARAMS, five_versions, prompts
from tests.support.causal_families import FAMILIES
from tests.support.corpus import write_corpus
from tests.support.served_models import fine_tuning, live_model, requests
from tests.support.single_questions import PROMPTS
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()
N_TOKENS = 7


def generated(model: Any, prompt: list[int]) -> list[int]:
    """Return what a model generates greedily after a prompt."""
    row = Row(prompt, Sampling(max_tokens=N_TOKENS))
    generate_rows(model, TOKENIZER, [row])
    return row.tokens


def assert_equal_texts(model: Any, prompts: list[list[int]]) -> None:
    """Compare the texts after prompts, with answers of different lengths, and with answers that are not given."""
    for number, prompt in enumerate(prompts):
        text = generated(model, prompt)
        if len(text) < N_TOKENS:  # it ended
            continue
        length = 1 + number % (N_TOKENS - 1)
        found = text_with_answer(model, prompt, text[:length], N_TOKENS - length, {-1})
        assert found == text
        other = [*text[: length - 1], (text[length - 1] + 1) % len(TOKENIZER)]
        assert text_with_answer(model, prompt, other, 1, {-1}) is None
        first_end = text.index(text[length])
        ended = text_with_answer(model, prompt, text[:1], N_TOKENS - 1, {text[length]})
        assert ended == (text[: first_end + 1] if first_end else text[:1])


@pytest.mark.parametrize("name", default_cases(FAMILIES, "gpt2", "llama", "mistral", "gemma3_text"))
def test_a_model_without_edits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES[name].build().eval()
    if not can_cache_rows(model):
        return
    prompts = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]
    assert_equal_texts(model, prompts)
    lengths: list[int] = []
    forward = type(model).forward

    @functools.wraps(forward)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        lengths.append(kwargs["input_ids"].shape[1])
        return forward(self, *args, **kwargs)

    prompt, text = max(((prompt, generated(model, prompt)) for prompt in prompts), key=lambda pair: len(pair[1]))
    monkeypatch.setattr(type(model), "forward", recorded)
    assert text_with_answer(model, prompt, text[:4], N_TOKENS - 4, {-1}) == text
    assert lengths == [len(prompt) + 4, 1, 1]


@pytest.mark.parametrize("name", HPARAMS)
def test_every_version_of_edits_that_act_by_row(name: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    with five_versions(tmp_path, HPARAMS[name](tmp_path)) as live:
        texts = []
        for version in range(live.version + 1):
            with live.at(version) as model:
                assert_equal_texts(model, prompts())
                texts.append([generated(model, prompt) for prompt in prompts()])
        assert len({str(of_version) for of_version in texts}) > 1, "no edit changes a text"


def test_edits_in_weights(tmp_path: Path) -> None:
    with live_model(tmp_path, fine_tuning()) as live:
        live.add(requests(0, 1), "key")
        assert_equal_texts(live.model, prompts())
