"""Tiny models of every family, with random weights, and a tokenizer of whole words."""

from __future__ import annotations

import copy
import functools
import os
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gpt2 import GPT2Config
from transformers.models.gptj import GPTJConfig
from transformers.models.llama import LlamaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.qwen2 import Qwen2Config

_TEXT = (
    "the capital of France is Paris Rome Berlin London river city moon made from green cheese old king who wrote "
    "Hamlet Shakespeare plays piano violin where born when language spoken in Peru Spanish and but not far away blue "
    "sea mountain snow summer winter bird song"
)

WORDS = _TEXT.split()

VOCABULARY = 64
DEVICE = os.environ.get("EASYEDIT_LIFELONG_TEST_DEVICE", "cpu")
"""The device of the tiny models; the conformance tests also run with ``cuda``."""

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

_GPT_SHAPE = {
    "vocab_size": VOCABULARY,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FAMILIES: dict[str, tuple[PretrainedConfig, str]] = {
    "gpt2": (GPT2Config(**_GPT_SHAPE), "transformer.h[2].mlp.c_fc.weight"),
    "gptj": (GPTJConfig(**_GPT_SHAPE, rotary_dim=8), "transformer.h[2].mlp.fc_out.weight"),
    "llama": (LlamaConfig(**_SHAPE), "model.layers[2].mlp.down_proj.weight"),
    "qwen2": (Qwen2Config(**_SHAPE), "model.layers[2].mlp.down_proj.weight"),
    "mistral": (MistralConfig(**_SHAPE, sliding_window=4), "model.layers[2].mlp.down_proj.weight"),
    # Gemma 2 normalises the output of its MLP, so only a value after that norm acts with its full length.
    "gemma2": (
        Gemma2Config(**_SHAPE, head_dim=8, sliding_window=4),
        "model.layers[2].post_feedforward_layernorm.weight",
    ),
}
"""Each family's tiny configuration, and a layer to edit."""


def build_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """Build a family's tiny model on :data:`DEVICE`, with the same weights each time."""
    torch.manual_seed(0)
    return copy.deepcopy(_template(family, dtype)).to(DEVICE)


@functools.cache
def _template(family: str, dtype: torch.dtype) -> Any:
    """Build a family's tiny model once per process."""
    model = AutoModelForCausalLM.from_config(FAMILIES[family][0]).to(dtype).eval()
    with torch.no_grad():
        # With the default initialisation, weights are so small that a model gives the same answer to every prompt.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
        model.get_output_embeddings().weight.mul_(4)
    return model


def smollm2_without_weights() -> Any:
    """Build a model with the shape of SmolLM2-135M on the ``meta`` device, with a small vocabulary."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of whole words, without special tokens around a text."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    for word in WORDS:
        vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )


def with_beginning_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Make a tokenizer begin every text with ``<s>``, as those of Llama and Gemma do."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def state_of(model: Any) -> dict[str, torch.Tensor]:
    """Copy a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
