"""Tokenizers that split subjects in other ways than the tokenizer of whole words."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast


def llama_like() -> PreTrainedTokenizerFast:
    """Build a tokenizer like Llama's: a begin token, a space before the text, bytes for unknown characters."""
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


class SlowTokenizer(PreTrainedTokenizer):
    """A tokenizer without a fast implementation: letters, some pairs of letters, and bytes of other characters."""

    def __init__(self, begin: bool = True, **kwargs: Any) -> None:
        self._table = {"<s>": 0, **{chr(i): i for i in range(32, 127)}}
        for token in ["an", "ce", "is", "e "]:
            self._table[token] = len(self._table) + 100
        for byte in range(128, 256):
            self._table[f"<{byte}>"] = 1000 + byte
        self._tokens = {number: token for token, number in self._table.items()}
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
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        data = b""
        for token in tokens:
            is_byte = token[:1] == "<" and token[1:-1].isdigit()
            data += bytes([int(token[1:-1])]) if is_byte else token.encode()
        return data.decode(errors="replace")

    def build_inputs_with_special_tokens(self, ids: list[int], *_: Any) -> list[int]:
        return [0, *ids] if self._begin else ids
