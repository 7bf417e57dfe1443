"""Rows that have ended are dropped while a model generates, and the others generate what they generate alone."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from easyedit_lifelong.models.encoding import pad_rows
from easyedit_lifelong.models.greedy_rows import can_drop_rows, generate_rows
from tests.support.causal_families import FAMILIES
from tests.support.single_questions import PROMPTS, generate_alone
from tests.support.thoroughness import default_cases
from tests.support.tiny_models import build_tokenizer

LIMITS = [3, 9, 1, 5, 7, 4]
_WITH_ALL_ROWS = {"mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "falcon_h1", "bamba", "jamba"} | {
    *("lfm2", "qwen3_next", "bloom", "mpt", "openai-gpt")  # the last three: no position_ids, or no cache
}


@pytest.mark.parametrize("name", default_cases(FAMILIES, "gpt2", "llama", "mistral", "gemma3_text", "rwkv", "lfm2"))
def test_each_row_generates_what_it_generates_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = FAMILIES[name].build().eval(), build_tokenizer()
    assert can_drop_rows(model) == (name not in _WITH_ALL_ROWS)
    if name in _WITH_ALL_ROWS:
        return
    rows_of_passes: list[int] = []
    forward = type(model).forward

    @functools.wraps(forward)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        rows_of_passes.append(len(kwargs["input_ids"]))
        return forward(self, *args, **kwargs)

    ends: list[bool] = []

    def stop(row: int, tokens: list[int]) -> bool:
        ends.append(len(tokens) == LIMITS[row] or tokens[-1] == 2)
        return ends[-1]

    ids, mask = pad_rows([tokenizer(prompt)["input_ids"] for prompt in PROMPTS], 0, "left")
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "forward", recorded)
        new = generate_rows(model, ids, mask, stop)
    expected = [generate_alone(model, tokenizer, prompt, limit) for prompt, limit in zip(PROMPTS, LIMITS, strict=True)]
    assert [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in new] == expected
    assert rows_of_passes[0] == len(PROMPTS) and sum(rows_of_passes) == sum(map(len, new)), "an ended row went on"
    assert ends.count(True) == len(PROMPTS)
