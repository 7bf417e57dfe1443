"""Text sampled from the model is reproducible, without special tokens, and follows the model's distribution."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from easyedit_lifelong.covariance.blocks import Amount, Position
from easyedit_lifelong.covariance.sampling import SampledPlan, _draw
from easyedit_lifelong.errors import CovarianceError
from tests.support.tiny_models import build_model, build_tokenizer


@pytest.fixture
def plan(llama: Any, tokenizer: Any) -> SampledPlan:
    return SampledPlan(llama, tokenizer, Amount(tokens=150), 16, 0)


def _rows(plan: SampledPlan) -> list[list[int]]:
    return [row for block in plan.blocks(Position()) for row in block.rows()]


def test_sampling_gives_exactly_the_given_number_of_tokens(plan: SampledPlan) -> None:
    rows = _rows(plan)
    assert list(map(len, rows)) == [16] * 9 + [6]


def test_a_block_depends_on_its_number_and_the_seed_only(
    llama: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("easyedit_lifelong.covariance.sampling.ROWS", 4)

    def make(seed: int) -> SampledPlan:
        return SampledPlan(llama, tokenizer, Amount(tokens=150), 16, seed)

    blocks = list(make(0).blocks(Position()))
    rows = [block.rows() for block in blocks]
    assert len(rows) == 3 and rows[0] != rows[1]
    assert [block.rows() for block in make(0).blocks(blocks[0].after)] == rows[1:]
    assert blocks[2].rows() == rows[2]  # a block can be read alone and repeatedly
    assert _rows(make(1)) != _rows(make(0))


def test_sampling_does_not_use_the_global_random_generator(plan: SampledPlan) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = _rows(plan)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert _rows(plan) == first


def test_special_tokens_are_never_sampled(llama: Any, tokenizer: Any) -> None:
    with torch.no_grad():
        llama.get_output_embeddings().weight[2] *= 100  # the end-of-text token becomes very likely
    plan = SampledPlan(llama, tokenizer, Amount(tokens=600), 16, 0)
    tokens = {token for row in _rows(plan) for token in row}
    assert not tokens & set(tokenizer.all_special_ids)
    assert len(tokens) > 10


def test_rows_begin_as_encoded_texts_and_their_first_words_differ(llama: Any, tokenizer: Any) -> None:
    class WithStart:
        """A tokenizer that puts a text between two special tokens."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __len__(self) -> int:
            return len(tokenizer)

        def __call__(self, text: str, **options: Any) -> Any:
            return {"input_ids": [1, *tokenizer(text)["input_ids"], 2]}

    rows = _rows(SampledPlan(llama, WithStart(), Amount(samples=20), 16, 0))
    assert len(rows) == 20
    assert {row[0] for row in rows} == {1}
    assert len({row[1] for row in rows}) > 8
    assert all(tokenizer.decode([row[1]]).isalpha() for row in rows)


def test_sampling_with_a_cache_draws_from_the_logits_of_a_plain_pass(llama: Any, tokenizer: Any) -> None:
    """Every sampled token is the one that its draw selects from the logits of a plain forward pass."""
    plan = SampledPlan(llama, tokenizer, Amount(samples=6), 12, 3)
    ids = plan.sample(0, 6)
    seed = int.from_bytes(hashlib.sha256(b"3:0").digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    torch.randint(len(plan._word_ids), (6, 1), generator=generator)
    with torch.no_grad():
        logits = llama(input_ids=ids).logits
    logits[..., tokenizer.all_special_ids] = -torch.inf
    for position in range(11):
        draws = torch.rand(6, 1, generator=generator)
        assert torch.equal(_draw(logits[:, position], draws)[:, 0], ids[:, position + 1])


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]]).expand(40000, -1)
    draws = torch.rand(40000, 1, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(_draw(logits, draws)[:, 0], minlength=6) / 40000
    torch.testing.assert_close(shares, logits[0].softmax(0), rtol=0, atol=0.01)
    edges = torch.tensor([[0.0], [1.0]])
    assert _draw(logits[:2], edges)[:, 0].tolist() == [0, 4]  # a token of probability 0 is never drawn


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "qwen2"])
def test_every_family_can_be_sampled(kind: str) -> None:
    plan = SampledPlan(build_model(kind), build_tokenizer(), Amount(tokens=40), 16, 0)
    assert sum(map(len, _rows(plan))) == 40


def test_a_context_of_one_token_is_refused(llama: Any, tokenizer: Any) -> None:
    with pytest.raises(CovarianceError, match="context: 1 "):
        SampledPlan(llama, tokenizer, Amount(tokens=40), 1, 0)
