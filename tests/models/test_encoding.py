"""Prompts and answers become rows of tokens, and rows become padded batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.errors import DataError
from easyedit_lifelong.models.encoding import encode_pair, encode_text, pad_rows, position_ids, row_batches
from tests.support.tiny_models import build_tokenizer, with_beginning_token


class CharacterTokenizer:
    """Has one token for each character and for each merge; can begin every text with a token."""

    def __init__(self, merges: tuple[str, ...] = (), begin: int | None = None) -> None:
        self.merges, self.begin, self.bos_token_id = merges, begin, begin

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids, at = [], 0
        while at < len(text):
            merge = next((m for m in self.merges if text.startswith(m, at)), text[at])
            ids.append(ord(merge) if len(merge) == 1 else 1000 + self.merges.index(merge))
            at += len(merge)
        return {"input_ids": ([self.begin] if self.begin is not None and add_special_tokens else []) + ids}


def _text(ids: list[int]) -> str:
    return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("prompt", "target", "prompt_text", "target_text"),
    [
        ("a b", "c", "a b", " c"),  # the space belongs to the answer
        ("a b", " c", "a b", " c"),  # no second space
        ("a b ", "c", "a b ", "c"),
        ("a b\n", "c", "a b\n", "c"),
    ],
)
def test_one_space_separates_prompt_and_answer(prompt: str, target: str, prompt_text: str, target_text: str) -> None:
    pair = encode_pair(CharacterTokenizer(), prompt, target)
    assert (_text(pair.prompt), _text(pair.target)) == (prompt_text, target_text)
    assert pair.tokens == pair.prompt + pair.target


def test_a_token_across_the_boundary_does_not_change_the_prompt() -> None:
    """In the joined text, "b c" is one token; but generation begins with the tokens of the prompt alone."""
    pair = encode_pair(CharacterTokenizer(merges=("b c",)), "a b", "c")
    assert (_text(pair.prompt), _text(pair.target)) == ("a b", " c")


def test_the_beginning_token_occurs_once_in_the_prompt() -> None:
    for merges in ((), ("b c",)):
        pair = encode_pair(CharacterTokenizer(merges=merges, begin=1), "a b", "c")
        assert pair.prompt == [1, *map(ord, "a b")]
        assert pair.target == [ord(" "), ord("c")]


def test_words_of_prompt_and_answer_become_their_tokens(tokenizer: Any) -> None:
    pair = encode_pair(tokenizer, "the capital of France is", "Rome city")
    assert tokenizer.convert_ids_to_tokens(pair.prompt) == ["the", "capital", "of", "France", "is"]
    assert tokenizer.convert_ids_to_tokens(pair.target) == ["Rome", "city"]


@pytest.mark.parametrize(("prompt", "target", "name"), [("", "c", "prompt"), ("a", "", "target")])
def test_a_prompt_or_target_without_tokens_is_refused_by_name(
    tokenizer: Any, prompt: str, target: str, name: str
) -> None:
    with pytest.raises(DataError, match=f"the {name} of .* has no tokens"):
        encode_pair(tokenizer, prompt, target)


def test_rows_are_padded_on_the_left_or_on_the_right() -> None:
    rows = [[5], [6, 7, 8]]
    ids, mask = pad_rows(rows, 9, "left")
    assert ids.tolist() == [[9, 9, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    ids, mask = pad_rows(rows, 9, "right")
    assert ids.tolist() == [[5, 9, 9], [6, 7, 8]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_position_ids_count_real_tokens_only() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]])
    positions = position_ids(mask)
    assert positions[0, 2:].tolist() == [0, 1]
    assert positions[1].tolist() == [0, 1, 2, 3]
    assert positions[2, :2].tolist() == [0, 1]
    assert positions.min() >= 0, "padding has a negative position, for which a position table has no row"


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=8), min_size=1, max_size=5))
def test_the_mask_selects_the_original_rows(rows: list[list[int]]) -> None:
    """The padding token may occur in a row, so that only the mask tells padding from text."""
    for side in ("left", "right"):
        ids, mask = pad_rows(rows, 0, side)
        assert [ids[i][mask[i].bool()].tolist() for i in range(len(rows))] == rows
        assert [position_ids(mask)[i][mask[i].bool()].tolist() for i in range(len(rows))] == [
            list(range(len(row))) for row in rows
        ]


def test_row_batches_hold_every_row_once_with_little_padding() -> None:
    rng = random.Random(0)
    rows = [[i] * rng.randint(1, 60) for i in range(300)]
    batches = list(row_batches([*rows, []], 256))
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    assert all(len(batch[0]) * len(batch) <= 256 for batch in batches)
    computed = sum(len(batch[0]) * len(batch) for batch in batches)
    assert computed < 1.06 * sum(map(len, rows))


def test_a_row_longer_than_a_batch_gets_a_batch_to_itself() -> None:
    assert [list(map(len, batch)) for batch in row_batches([[1] * 9, [1] * 3, [1]], 4)] == [[9], [3], [1]]


def test_a_text_that_begins_with_the_beginning_token_gets_no_second_one() -> None:
    tokenizer = with_beginning_token(build_tokenizer())
    assert tokenizer("<s> France is")["input_ids"][:2] == [1, 1], "the tokenizer itself adds a second one"
    assert encode_text(tokenizer, "<s> France is") == encode_text(tokenizer, "France is")
    assert encode_text(tokenizer, "France is")[0] == 1
    pair = encode_pair(tokenizer, "<s> France is", "Rome")
    assert pair == encode_pair(tokenizer, "France is", "Rome")


def test_a_tokenizer_without_a_beginning_token_encodes_all_of_a_text() -> None:
    tokenizer = build_tokenizer()
    tokenizer.bos_token = None
    assert encode_text(tokenizer, "<s> <s> France") == tokenizer("<s> <s> France")["input_ids"]
