"""Every method: other prompts of a batch, padding and the KV cache do not change an edited model's answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance.method_cases import MethodCase, each_case, each_family
from tests.conformance.observe import PROMPTS, batch_of, generated, logits_of

TOLERANCE: dict[str, float] = {"rtol": 1e-3, "atol": 1e-3}
"""Matrix products of a batch round differently from those of a single prompt."""


@pytest.fixture(scope="module")
def edited_models() -> dict[tuple[str, str], Any]:
    """Edited models that the tests below share, since they only read them."""
    return {}


@pytest.fixture
def model(edited_models: dict[tuple[str, str], Any], case: MethodCase, family: str) -> Any:
    """An edited model."""
    if (case.name, family) not in edited_models:
        edited_models[case.name, family] = case.edited(family=family)
    return edited_models[case.name, family]


def logits_in_batch(model: Any, prompts: list[str], side: str) -> list[torch.Tensor]:
    """Return the logits of each prompt's own tokens, all prompts in one batch."""
    batch = batch_of(prompts, side)
    with torch.no_grad():
        logits = model(**batch).logits
    return [row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@each_family
@each_case
def test_logits_in_a_batch_are_those_of_each_prompt_alone(case: MethodCase, model: Any, side: str) -> None:
    alone = [row[0] for row in logits_of(model)]
    for order in (1, -1):
        in_batch = logits_in_batch(model, PROMPTS[::order], side)[::order]
        for prompt, row, expected in zip(PROMPTS, in_batch, alone, strict=True):
            torch.testing.assert_close(row, expected, **TOLERANCE, msg=lambda text, prompt=prompt: f"{prompt}: {text}")


@each_family
@each_case
def test_generated_tokens_are_the_same_without_a_cache_and_in_a_batch(case: MethodCase, model: Any) -> None:
    alone = [generated(model, [prompt])[0] for prompt in PROMPTS]
    assert [generated(model, [prompt], use_cache=False)[0] for prompt in PROMPTS] == alone
    assert generated(model, PROMPTS) == alone
    assert generated(model, PROMPTS[::-1], use_cache=False) == alone[::-1]


@each_family
@each_case
def test_logits_of_generated_tokens_are_the_same_without_a_cache(case: MethodCase, model: Any) -> None:
    for prompt in PROMPTS:
        batch = batch_of([prompt])
        del batch["position_ids"]
        with_cache, without = (
            model.generate(
                **batch,
                max_new_tokens=4,
                do_sample=False,
                pad_token_id=0,
                use_cache=use_cache,
                output_logits=True,
                return_dict_in_generate=True,
            )
            for use_cache in (True, False)
        )
        torch.testing.assert_close(with_cache.logits, without.logits, **TOLERANCE)
        torch.testing.assert_close(with_cache.logits[0][0], logits_of(model, [prompt])[0][0, -1], **TOLERANCE)
