"""Models with random weights, a tokenizer of made-up words for them, and facts in these words."""

from __future__ import annotations

import itertools
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25, vocab_size=50257),
    "gpt-j-6B": GPTJConfig(n_embd=4096, n_layer=28, n_head=16, rotary_dim=64, vocab_size=50400),
    "llama-7b": LlamaConfig(vocab_size=49152),
    "llama3-8b": LlamaConfig(
        vocab_size=128256,
        intermediate_size=14336,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
    "mistral-7b": MistralConfig(vocab_size=49152),
    "qwen2.5-7b": Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    ),
}
"""Shapes of the published models; the vocabulary is at least as large as the tokenizer's."""

_SMALL = {"vocab_size": 256, "initializer_range": 0.15, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
"""At the default range, the weights of so narrow a model are so small that every prompt gets the same answer."""

SMALL_CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=256, **_SMALL),
    "llama": LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        **_SMALL,
    ),
}
"""Four blocks of width 64."""

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def random_model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a model with random weights directly on a device."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@dataclass(frozen=True)
class RandomLanguage:
    """Texts for a model with random weights: its tokens are made-up words.

    Attributes:
        size: number of tokens, special tokens included.
    """

    size: int

    @property
    def words(self) -> list[str]:
        """The words: ``aaaa``, ``aaab`` and so on."""
        letters = itertools.product(string.ascii_lowercase, repeat=4)
        return ["".join(word) for word in itertools.islice(letters, self.size - len(_SPECIAL))]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Build a tokenizer that maps every word to one token, and pads on the left."""
        vocabulary = {word: number for number, word in enumerate([*_SPECIAL, *self.words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), _SPECIAL, strict=True))
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **names)

    def facts(self, count: int, seed: int = 0) -> list[dict[str, Any]]:
        """Return requests: prompts of six words, two of which are the subject, and targets of one word."""
        draw = random.Random(seed)
        facts = []
        for number in range(count):
            first, *subject, second, third, last, target = draw.sample(self.words, 7)
            prompt = " ".join([first, *subject, second, third, last])
            facts.append({"case_id": number, "prompt": prompt, "target_new": target, "subject": " ".join(subject)})
        return facts

    def prompts(self, count: int, seed: int = 1) -> list[str]:
        """Return prompts of six words that no fact is about. Batches of them and of facts need no padding."""
        draw, words = random.Random(seed), self.words
        return [" ".join(draw.sample(words, 6)) for _ in range(count)]

    def write_corpus(self, path: Path, tokens: int, seed: int = 2) -> None:
        """Write a text file of documents of 100 random words, with at least so many tokens in all."""
        draw, words = random.Random(seed), self.words
        documents = [" ".join(draw.choices(words, k=100)) for _ in range(-(-tokens // 100))]
        path.write_text("\n\n".join(documents), encoding="utf-8")
