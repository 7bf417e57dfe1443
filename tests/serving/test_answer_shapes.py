"""The JSON of answers: what a token of a part of a character has as its bytes."""

from __future__ import annotations

from easyedit_lifelong.serving.answer_shapes import ChatShape
from easyedit_lifelong.serving.generation import Row, Sampling, TokenLogprob


def test_a_token_that_is_a_part_of_a_character_has_no_bytes() -> None:
    shape = ChatShape(lambda tokens: bytes(tokens).decode(errors="replace"), "m", with_logprobs=True)
    part, whole = 0xE2, ord("a")
    row = Row([1], Sampling(), tokens=[part, whole], logprobs=[TokenLogprob(part, -1.0, ((whole, -2.0),))])
    row.logprobs.append(TokenLogprob(whole, -1.0, ((part, -2.0),)))
    shape.begin("id", 0, [[1]], [row])
    first, second = shape.whole()["choices"][0]["logprobs"]["content"]
    assert (first["bytes"], first["top_logprobs"][0]["bytes"]) == (None, [whole])
    assert (second["bytes"], second["top_logprobs"][0]["bytes"]) == ([whole], None)
