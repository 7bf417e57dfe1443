"""A corpus is read in blocks: exact amounts, MEMIT's order, and the same blocks from any position."""

from __future__ import annotations

import random
from typing import Any

import pytest

from easyedit_lifelong.covariance.blocks import Amount, Position, TextPlan
from easyedit_lifelong.errors import CovarianceError
from tests.support.second_moments import count_tokens, make_texts

TEXTS = make_texts(60, seed=3)


def _plan(tokenizer: Any, amount: Amount, **options: Any) -> TextPlan:
    return TextPlan(TEXTS, tokenizer, amount, **{"context": 64, "seed": 0, "block_tokens": 50, **options})


def _rows(plan: TextPlan, start: Position | None = None) -> list[list[int]]:
    return [row for block in plan.blocks(start or Position()) for row in block.rows()]


@pytest.mark.parametrize("tokens", [1, 49, 50, 51, 333])
def test_a_plan_holds_exactly_the_given_number_of_tokens(tokenizer: Any, tokens: int) -> None:
    plan = _plan(tokenizer, Amount(tokens=tokens))
    assert sum(map(len, _rows(plan))) == tokens
    assert list(plan.blocks(Position()))[-1].after.tokens == tokens


def test_a_corpus_smaller_than_the_amount_is_read_in_full(tokenizer: Any) -> None:
    corpus_tokens = count_tokens(tokenizer, TEXTS)
    assert sum(map(len, _rows(_plan(tokenizer, Amount(tokens=10**6))))) == corpus_tokens
    blocks = list(_plan(tokenizer, Amount(samples=1000)).blocks(Position()))
    assert (blocks[-1].after.tokens, blocks[-1].after.documents) == (corpus_tokens, len(TEXTS))


def test_samples_are_drawn_and_cut_as_by_memit(tokenizer: Any) -> None:
    order = list(range(len(TEXTS)))
    random.Random(1).shuffle(order)
    expected = [tokenizer(TEXTS[i])["input_ids"][:9] for i in order[:20]]
    assert _rows(_plan(tokenizer, Amount(samples=20), context=9)) == expected


def test_a_document_longer_than_the_context_fills_several_rows(tokenizer: Any) -> None:
    rows = _rows(_plan(tokenizer, Amount(tokens=10**6), context=7))
    assert max(map(len, rows)) == 7
    assert sum(map(len, rows)) == count_tokens(tokenizer, TEXTS)


def test_every_row_begins_with_the_beginning_token(tokenizer: Any) -> None:
    class WithStart:
        """A tokenizer that begins every text with a token."""

        bos_token_id, eos_token_id = 1, 2

        def __call__(self, text: Any, **options: Any) -> Any:
            if isinstance(text, str):
                return {"input_ids": [1, *tokenizer(text)["input_ids"]]}
            return {"input_ids": [[1, *row] for row in tokenizer(text)["input_ids"]]}

    rows = _rows(TextPlan(TEXTS, WithStart(), Amount(tokens=500), 7, 0, 50))
    assert {row[0] for row in rows} == {1}
    assert {row.count(1) for row in rows} == {1}


@pytest.mark.parametrize("amount", [Amount(tokens=700), Amount(samples=50), Amount(tokens=10**6)])
def test_a_plan_resumed_at_any_position_gives_the_remaining_blocks(tokenizer: Any, amount: Amount) -> None:
    plan = _plan(tokenizer, amount)
    blocks = list(plan.blocks(Position()))
    rows = [block.rows() for block in blocks]
    assert len(blocks) > 5
    assert [block.after.block for block in blocks] == list(range(1, len(blocks) + 1))
    for number, block in enumerate(blocks):
        rest = list(_plan(tokenizer, amount).blocks(block.after))
        assert [b.rows() for b in rest] == rows[number + 1 :]
        assert [b.after for b in rest] == [b.after for b in blocks[number + 1 :]]


def test_the_seed_determines_the_order(tokenizer: Any) -> None:
    amount = Amount(tokens=200)
    assert _rows(_plan(tokenizer, amount)) == _rows(_plan(tokenizer, amount))
    assert _rows(_plan(tokenizer, amount)) != _rows(_plan(tokenizer, amount, seed=1))


def test_empty_documents_count_as_samples_but_give_no_rows(tokenizer: Any) -> None:
    plan = TextPlan(["", "the capital", ""], tokenizer, Amount(samples=3), 8, 0, 50)
    blocks = list(plan.blocks(Position()))
    assert [row for block in blocks for row in block.rows()] == [tokenizer("the capital")["input_ids"]]
    assert blocks[-1].after.documents == 3


@pytest.mark.parametrize(
    "amount",
    [{}, {"tokens": 1, "samples": 1}, {"tokens": 0}, {"samples": -1}],
    ids=["none", "both", "zero", "negative"],
)
def test_invalid_amounts_are_refused(amount: dict[str, int]) -> None:
    with pytest.raises(CovarianceError):
        Amount(**amount)
