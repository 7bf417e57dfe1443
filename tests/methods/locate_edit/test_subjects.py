"""Which token a fact is written at, for tokenizers that do to a subject what they like."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from easyedit_lifelong.data.request import EditRequest
from easyedit_lifelong.data.subjects import find_subject
from easyedit_lifelong.errors import DataError
from easyedit_lifelong.methods.locate_edit.check import check_requests
from easyedit_lifelong.methods.locate_edit.facts import encode_fact
from easyedit_lifelong.methods.shared.subject_positions import subject_position, subject_span
from tests.support.byte_level import ALPHABET, byte_level
from tests.support.coachhook_edits import PLAIN, hparams_for
from tests.support.tiny_models import build_model, build_tokenizer


def llama_like() -> PreTrainedTokenizerFast:
    """Llama's kind: a begin-of-text token, a space before the text, bytes for characters it doesn't know."""
    vocabulary = {"<unk>": 0, "<s>": 1, **{f"<0x{byte:02X}>": byte + 2 for byte in range(256)}}
    for token in [*"▁abcdefghijklmnopqrstuvwxyzFPB", "is", "▁is", "an", "Fr", "▁Fr"]:
        vocabulary[token] = len(vocabulary)
    merges = [("i", "s"), ("▁", "is"), ("a", "n"), ("F", "r"), ("▁", "Fr")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


class Letters(PreTrainedTokenizer):
    """A slow tokenizer, in Python: pairs of letters, and bytes for what isn't ASCII."""

    def __init__(self, begin: bool = True, **kwargs: Any) -> None:
        self._table = {"<s>": 0, **{chr(i): i for i in range(32, 127)}}
        for token in ["an", "ce", "is", "e "]:
            self._table[token] = len(self._table) + 100
        for byte in range(128, 256):
            self._table[f"<{byte}>"] = 1000 + byte
        self._names = {number: token for token, number in self._table.items()}
        self._begin = begin
        super().__init__(bos_token="<s>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return 2000

    def get_vocab(self) -> dict[str, int]:
        return dict(self._table)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        tokens, at = [], 0
        while at < len(text):
            if text[at : at + 2] in self._table:
                tokens.append(text[at : at + 2])
            elif ord(text[at]) < 128:
                tokens.append(text[at])
            else:
                tokens += [f"<{byte}>" for byte in text[at].encode()]
                at += 1
                continue
            at += len(tokens[-1])
        return tokens

    def _convert_token_to_id(self, token: str) -> int:
        return self._table[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        data = b"".join(bytes([int(t[1:-1])]) if t[:1] == "<" and t[1:-1].isdigit() else t.encode() for t in tokens)
        return data.decode(errors="replace")

    def build_inputs_with_special_tokens(self, ids: list[int], *_: Any) -> list[int]:
        return [0, *ids] if self._begin else ids


def read_up_to(tokenizer: Any, text: str, position: int) -> str:
    """What a model has read when it has read the token at a position."""
    return tokenizer.decode(tokenizer(text)["input_ids"][: position + 1], skip_special_tokens=True)


@pytest.mark.parametrize(
    ("text", "subject", "span"),
    [
        ("the capital of France is", "France", (15, 21)),
        ("France is France", "France", (10, 16)),  # the last time
        ("France", "France", (0, 6)),
        ("Ann likes Annabel", "Ann", (0, 3)),  # a whole word before part of one
        ("Annabel and Annika", "Ann", (12, 15)),
        ("the C++ of C++", "C++", (11, 14)),  # no regular expression
        ("what (a.b)* is", "(a.b)*", (5, 11)),
        ("a {} b", "{}", (2, 4)),
        ("Zoë, Zoëlle", "Zoë", (0, 3)),
        ("nothing here", "France", None),
        ("france", "France", None),
    ],
)
def test_finding_a_subject(text: str, subject: str, span: tuple[int, int] | None) -> None:
    assert find_subject(text, subject) == span


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("the capital of France is", "France", 3),
        ("France is France", "France", 2),
        ("Hamlet wrote", "Hamlet", 0),
        ("old king Hamlet", "old king", 1),
        ("  the  capital   of France  ", "France", 3),
    ],
)
def test_whole_words(text: str, subject: str, expected: int) -> None:
    assert subject_position(build_tokenizer(), text, subject) == expected


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("subject_last", 3),
        ("subject_first", 2),
        ("subject_first_after_last", 4),
        ("last", 5),
    ],
)
def test_the_four_places(token: str, expected: int) -> None:
    assert subject_position(build_tokenizer(), "where was old king born when", "old king", token) == expected


def test_nothing_comes_after_a_subject_at_the_end() -> None:
    tokenizer = build_tokenizer()
    assert subject_position(tokenizer, "who is old king", "old king", "subject_first_after_last") == 3
    assert subject_position(tokenizer, "who is old king  ", "old king", "subject_first_after_last") == 3


MERGING = ["F r", "a n", "c e", "an ce", "Fr ance", "ance Ġ", "ance 's", "ce '", "Ġ i", "e Ġ", "ance '", "t h", "th e"]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "France",
        "France is",
        "of France's moon",
        "of France, or",
        "France's France'",
        "the France  is",
        "Ann's France\n",
    ],
)
def test_a_token_that_holds_the_subjects_end_and_more(text: str, trim: bool) -> None:
    # Counting the tokens of the text before it, as MEMIT does, would miss it.
    tokenizer = byte_level(*[m for m in MERGING if "'s" not in m], trim=trim)
    position = subject_position(tokenizer, text, "France")
    end = text.rindex("France") + len("France")
    assert len(read_up_to(tokenizer, text, position)) >= end
    assert len(read_up_to(tokenizer, text, position - 1)) < end if position else True


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize(
    "merges",
    [
        [],
        ["æ Ŀ", "± ä", "º ¬", "ð Ł", "Ġ ð", "à ¤", "Ł ĺ"],  # "± ä" and "º ¬" run from one character into the next
        ["æ Ŀ", "æĿ ±", "ä º", "äº ¬", "Ġ æĿ±"],
        ["Ġ æ", "¬ Ġ", "Ģ Ġ", "Ġ ð", "© Ġ"],
    ],
)
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the 東京 is", "東京"),
        ("東京", "東京"),
        ("東京と東", "東"),
        ("a 😀 b", "😀"),
        ("😀", "😀"),
        ("Beyoncé is", "Beyoncé"),
        ("das Café ist", "Café"),
    ],
)
def test_characters_of_several_tokens(text: str, subject: str, merges: list[str], trim: bool) -> None:
    tokenizer = byte_level(*merges, trim=trim)
    position = subject_position(tokenizer, text, subject)
    end = text.rindex(subject) + len(subject)
    # All bytes of the subject have been read at its token, and not all at the token before.
    assert text[:end] in read_up_to(tokenizer, text, position)
    assert position == 0 or text[:end] not in read_up_to(tokenizer, text, position - 1)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the 東京 is", "東京"),
        ("Fran is", "Fran"),
        ("is Fran", "Fran"),
        ("é", "é"),
        ("an é is", "é"),
        ("é is", "é"),
    ],
)
def test_a_token_before_the_text_counts(text: str, subject: str) -> None:
    tokenizer = llama_like()
    position = subject_position(tokenizer, text, subject)
    end = text.rindex(subject) + len(subject)
    assert text[:end] in read_up_to(tokenizer, text, position)
    assert text[:end] not in read_up_to(tokenizer, text, position - 1)
    assert subject_position(tokenizer, text, subject, "last") == len(tokenizer(text)["input_ids"]) - 1


@pytest.mark.parametrize("text", ["of France", "é of 東京"])
def test_a_token_behind_the_text_is_not_the_subjects(text: str) -> None:
    tokenizer = byte_level(end=True)
    subject = text.split()[-1]
    assert subject_position(tokenizer, text, subject) == len(tokenizer(text)["input_ids"]) - 2


@pytest.mark.parametrize("begin", [True, False])
@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("the capital of France is", "France"),
        ("France", "France"),
        ("a France b France", "France"),
        ("of 東京 is", "東京"),
        ("東京", "東京"),
        (" France is", "France"),
        ("France 's", "France"),
        ("France , or", "France"),
        ("is 東 ?", "東"),
    ],
)
def test_slow_tokenizers(text: str, subject: str, begin: bool) -> None:
    tokenizer = Letters(begin=begin)
    assert not tokenizer.is_fast
    position = subject_position(tokenizer, text, subject)
    end = text.rindex(subject) + len(subject)
    assert text[:end] in read_up_to(tokenizer, text, position)
    assert position == 0 or text[:end] not in read_up_to(tokenizer, text, position - 1)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (None, "field 'subject': is missing"),
        ("  ", "field 'subject': is missing"),
        ("Peru", "field 'subject': 'Peru'"),
    ],
)
def test_a_subject_that_is_no_use_is_named(subject: str | None, message: str) -> None:
    request = EditRequest(7, "the capital of France is", "Rome", subject, source="facts.json, record 3")
    with pytest.raises(DataError, match=rf"facts.json, record 3 .*{message}"):
        subject_span(request)
    model, tokenizer = build_model("llama"), build_tokenizer()
    with pytest.raises(DataError, match=rf"facts.json, record 3 .*{message}"):
        check_requests(model, tokenizer, hparams_for("llama"), [request])


def test_the_last_token_needs_no_subject() -> None:
    request = EditRequest(7, "the capital of France is", "Rome")
    fact = encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama", fact_token="last"), None)
    assert fact.plain.lookup == 4
    assert fact.essence is None


@pytest.mark.parametrize("prompt", ["what is {} or {0} of France", "{} France", "France}", "{France is", "%s {France}"])
def test_braces_in_a_prompt_stay(prompt: str) -> None:
    tokenizer = byte_level("F r", "Fr a")
    fact = encode_fact(
        tokenizer, EditRequest(1, prompt, "Rome", "France"), [["{}"], ["x. {}"]], hparams_for("llama"), None
    )
    assert [tokenizer.decode(row.prompt) for row in fact.contexts] == [prompt, "x. " + prompt]
    assert all(tokenizer.decode(row.prompt[: row.lookup + 1]).endswith("France") for row in fact.contexts)


@pytest.mark.parametrize(
    ("subject", "prompt"), [("{}", "what {} is"), ("a {b}", "say a {b} now"), (" France ", "of France is")]
)
def test_odd_subjects(subject: str, prompt: str) -> None:
    tokenizer = byte_level()
    fact = encode_fact(
        tokenizer, EditRequest(1, prompt, "Rome", subject), [["{}"], ["x. {}"]], hparams_for("llama"), None
    )
    for row in (*fact.contexts, fact.essence):
        assert row is not None
        assert tokenizer.decode(row.prompt[: row.lookup + 1]).endswith(subject.strip())
    assert tokenizer.decode(fact.essence.prompt) == f"{subject.strip()} is a"


def test_prompts_with_spaces_around() -> None:
    tokenizer = byte_level()
    fact = encode_fact(
        tokenizer, EditRequest(1, "  of France is ", "Rome", "France"), [["x. {}"]], hparams_for("llama"), None
    )
    (row,) = fact.contexts
    assert tokenizer.decode(row.prompt) == "x.   of France is "
    assert tokenizer.decode(row.target) == "Rome"
    assert tokenizer.decode(row.prompt[: row.lookup + 1]) == "x.   of France"


def test_mentions_are_looked_up_where_the_subject_is_mentioned_first() -> None:
    tokenizer = byte_level()
    hparams = hparams_for("llama", mention_templates=["I like {subject}, and {prompt}"])
    fact = encode_fact(tokenizer, EditRequest(1, "of {France} is", "Rome", "{France}"), PLAIN, hparams, None)
    (row,) = fact.mentions
    assert tokenizer.decode(row.prompt) == "I like {France}, and of {France} is"
    assert tokenizer.decode(row.prompt[: row.lookup + 1]) == "I like {France}"
    assert (tokenizer.decode(row.target), row.weight) == (" Rome", 0)


def test_a_prompt_that_is_too_long_is_named() -> None:
    request = EditRequest(7, "the capital of France is", "Rome Paris", "France", source="facts.json, record 3")
    encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama"), 7)
    with pytest.raises(DataError, match=r"facts.json, record 3 .*field 'prompt': .*has 7 tokens, .*context is 6"):
        encode_fact(build_tokenizer(), request, PLAIN, hparams_for("llama"), 6)


def test_weights_are_means_within_groups_then_over_groups() -> None:
    request = EditRequest(7, "the capital of France is", "Rome", "France")
    fact = encode_fact(build_tokenizer(), request, [["{}"], ["a . {}", "b . {}", "c . {}"]], hparams_for("llama"), None)
    assert [row.weight for row in fact.contexts] == [1 / 2, 1 / 6, 1 / 6, 1 / 6]
    assert fact.plain.weight == 0
    assert fact.essence is not None
    assert fact.essence.weight == 0


def test_trained_tokenizers_agree_with_what_is_read() -> None:
    texts = ["the capital of France's Paris, say Beyoncé", "naïve café in 東京都 😀 or São Paulo."]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=290, initial_alphabet=ALPHABET))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for text in texts:
        for subject in ("France", "Beyoncé", "café", "東京", "😀", "São Paulo"):
            if subject in text:
                position, end = subject_position(fast, text, subject), text.index(subject) + len(subject)
                assert text[:end] in read_up_to(fast, text, position)
                assert text[:end] not in read_up_to(fast, text, position - 1)
