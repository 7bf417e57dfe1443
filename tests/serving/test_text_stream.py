"""Streamed text: its pieces are the text that decoding all tokens gives, up to the first stop text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from easyedit_lifelong.serving.text_stream import TextStream
from tests.support.thoroughness import examples


def decode_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def pieces_of(tokens: list[int], stops: list[str]) -> tuple[list[str], bool]:
    stream, pieces = TextStream(decode_bytes, stops), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    return [*pieces, stream.finish()], False


@examples(100)
@given(st.text(alphabet="abé€", max_size=12), st.lists(st.text(alphabet="abé€", min_size=1, max_size=3), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    pieces, stopped = pieces_of(list(text.encode()), stops)
    ends = [text.index(stop) for stop in stops if stop in text]
    if not ends:
        assert ("".join(pieces), stopped) == (text, False)
    else:
        # The answer ends at the first token that completes a stop text; nothing of a stop text is emitted before.
        assert stopped
        joined = "".join(pieces)
        assert text.startswith(joined)
        assert not any(stop in joined for stop in stops)
        assert any(text[len(joined) :].startswith(stop) for stop in stops)


def test_an_incomplete_character_is_held_back() -> None:
    pieces, _ = pieces_of(list("a€".encode()), [])
    assert pieces == ["a", "", "", "€", ""]


def test_what_may_begin_a_stop_text_is_held_back_until_it_does_not() -> None:
    assert pieces_of(list(b"xENx"), ["END"])[0] == ["x", "", "", "ENx", ""]
    assert pieces_of(list(b"xEND"), ["END"]) == (["x", "", "", ""], True)


def test_text_that_stays_incomplete_is_emitted_at_the_end() -> None:
    assert pieces_of([97, 0xE2], [])[0] == ["a", "", "\ufffd"]
